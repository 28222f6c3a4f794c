"""Pooling by 2x2 windows, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, normal
from ._rivals import torch_call


def _windows(x: np.ndarray) -> np.ndarray:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2)


def _torch_formats(make: Any) -> dict[str, Build]:
    def of(memory_format: str) -> Build:
        def prepare(torch: Any, t: dict[str, Any]) -> Call:
            kind = getattr(torch, memory_format)
            call: Call = make(torch, {k: v.contiguous(memory_format=kind) for k, v in t.items()})
            return call

        return torch_call(prepare)

    return {"NCHW": of("contiguous_format"), "channels-last": of("channels_last")}


def _pools(n: int, c: int, size: int) -> list[Case]:
    k = hl.kernels
    half = size // 2

    def inputs(rng: np.random.Generator) -> Arrays:
        return {"x": normal(rng, n, c, size, size), "dy": normal(rng, n, c, half, half)}

    def max_backward(arrays: Arrays) -> Call:
        x, dy = arrays["x"], arrays["dy"]
        _, indices = k.max_pool2d(x, 2, return_indices=True)
        return lambda: k.max_pool2d_backward(dy, indices, x.shape, kernel_size=2)

    def torch_backward(torch: Any, t: dict[str, Any]) -> Call:
        _, indices = torch.nn.functional.max_pool2d(t["x"], 2, return_indices=True)
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return lambda: backward(t["dy"], t["x"], [2, 2], [2, 2], [0, 0], [1, 1], False, indices)

    whole = float(n * c * size * size)
    shared: dict[str, Any] = {"family": "pool", "inputs": inputs, "rtol": 1e-5}
    label = f"({n}, {c}, {size}, {size}) f32"
    return [
        Case(
            name=f"max_pool2d 2x2 of {label}",
            contenders={
                "hotloop": lambda a: lambda: k.max_pool2d(a["x"], 2),
                "numpy": lambda a: lambda: _windows(a["x"]).max(axis=(3, 5)),
                "torch": _torch_formats(
                    lambda torch, t: lambda: torch.nn.functional.max_pool2d(t["x"], 2)
                ),
            },
            bytes=5.0 * whole,
            quick=size <= 8,
            **shared,
        ),
        Case(
            name=f"max_pool2d_backward 2x2 of {label}",
            contenders={"hotloop": max_backward, "torch": _torch_formats(torch_backward)},
            bytes=5.0 * whole,
            **shared,
        ),
        Case(
            name=f"avg_pool2d 2x2 of {label}",
            contenders={
                "hotloop": lambda a: lambda: k.avg_pool2d(a["x"], 2),
                "numpy": lambda a: lambda: _windows(a["x"]).mean(axis=(3, 5)),
                "torch": _torch_formats(
                    lambda torch, t: lambda: torch.nn.functional.avg_pool2d(t["x"], 2)
                ),
            },
            bytes=5.0 * whole,
            **shared,
        ),
    ]


CASES = [*_pools(32, 32, 8), *_pools(32, 64, 112)]
