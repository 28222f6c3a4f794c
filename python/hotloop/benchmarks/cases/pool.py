"""Pools of 2x2, of 3x3 that overlap, and over the whole image, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target, normal
from ._rivals import torch_call

_Window = tuple[int, int, int]  # kernel, stride, padding
_PLAIN: _Window = (2, 2, 0)
_OVERLAPPING: _Window = (3, 2, 1)


def _windows(x: np.ndarray) -> np.ndarray:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2)


def _channels_last(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _torch_formats(make: Any) -> dict[str, Build]:
    def of(memory_format: str) -> Build:
        def prepare(torch: Any, t: dict[str, Any]) -> Call:
            kind = getattr(torch, memory_format)
            call: Call = make(torch, {k: v.contiguous(memory_format=kind) for k, v in t.items()})
            return call

        return torch_call(prepare)

    return {"NCHW": of("contiguous_format"), "channels-last": of("channels_last")}


@dataclass(frozen=True)
class _Problem:
    """One pool of images; x and dy channels-last for us, in both formats for PyTorch."""

    shape: tuple[int, int, int]  # n, c, size
    window: _Window

    @property
    def out(self) -> int:
        kernel, stride, padding = self.window
        return (self.shape[2] + 2 * padding - kernel) // stride + 1

    @property
    def how(self) -> dict[str, Any]:
        return {"stride": self.window[1], "padding": self.window[2]}

    @property
    def pairs(self) -> list[list[int]]:
        return [[value, value] for value in self.window]

    @property
    def name(self) -> str:
        n, c, size = self.shape
        kernel, stride, _ = self.window
        return f"{kernel}x{kernel}/{stride} of ({n}, {c}, {size}, {size}) f32"

    def case(self, name: str, contenders: dict[str, Any], tap_bytes: float = 0.0) -> Case:
        n, c, size = self.shape
        images, results = float(n * c * size * size), float(n * c * self.out * self.out)
        return Case(
            family="pool",
            name=f"{name} {self.name}",
            inputs=self.inputs,
            contenders=contenders,
            bytes=4.0 * images + (4.0 + tap_bytes) * results,
            ceiling="copy",
            rtol=1e-5,
            quick=size <= 8,
            target=Target("torch", 4.0, 0.8) if size > 8 and "NCHW" not in name else None,
        )

    def inputs(self, rng: np.random.Generator) -> Arrays:
        n, c, size = self.shape
        return {"x": normal(rng, n, c, size, size), "dy": normal(rng, n, c, self.out, self.out)}


def _forward(problem: _Problem) -> list[Case]:
    k, window, how = hl.kernels, problem.window, problem.how
    plain = window == _PLAIN and problem.shape[2] % 2 == 0

    def max_forward(arrays: Arrays) -> Call:
        x = _channels_last(arrays["x"])
        return lambda: k.max_pool2d(x, window[0], **how)

    def avg_forward(arrays: Arrays) -> Call:
        x = _channels_last(arrays["x"])
        return lambda: k.avg_pool2d(x, window[0], **how)

    torch_max = _torch_formats(
        lambda torch, t: lambda: torch.nn.functional.max_pool2d(t["x"], *window)
    )
    torch_avg = _torch_formats(
        lambda torch, t: lambda: torch.nn.functional.avg_pool2d(t["x"], *window)
    )
    numpy_max = {"numpy": lambda a: lambda: _windows(a["x"]).max((3, 5))} if plain else {}
    numpy_avg = {"numpy": lambda a: lambda: _windows(a["x"]).mean((3, 5))} if plain else {}
    from_nchw = {
        "hotloop": lambda a: lambda: k.max_pool2d(a["x"], window[0], **how),
        "torch": torch_max,
    }
    return [
        problem.case("max_pool2d", {"hotloop": max_forward, **numpy_max, "torch": torch_max}),
        problem.case("max_pool2d from NCHW memory", from_nchw),
        problem.case("avg_pool2d", {"hotloop": avg_forward, **numpy_avg, "torch": torch_avg}),
    ]


def _backward(problem: _Problem) -> list[Case]:
    k, window, how, pairs = hl.kernels, problem.window, problem.how, problem.pairs

    def max_backward(arrays: Arrays) -> Call:
        x, dy = _channels_last(arrays["x"]), _channels_last(arrays["dy"])
        _, taps = k.max_pool2d(x, window[0], return_indices=True, **how)
        return lambda: k.max_pool2d_backward(dy, taps, x.shape, kernel_size=window[0], **how)

    def avg_backward(arrays: Arrays) -> Call:
        x, dy = _channels_last(arrays["x"]), _channels_last(arrays["dy"])
        return lambda: k.avg_pool2d_backward(dy, x.shape, kernel_size=window[0], **how)

    def torch_max(torch: Any, t: dict[str, Any]) -> Call:
        _, indices = torch.nn.functional.max_pool2d(t["x"], *window, return_indices=True)
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return lambda: backward(t["dy"], t["x"], *pairs, [1, 1], False, indices)

    def torch_avg(torch: Any, t: dict[str, Any]) -> Call:
        backward = torch.ops.aten.avg_pool2d_backward
        return lambda: backward(t["dy"], t["x"], *pairs, False, True, None)

    return [
        problem.case(
            "max_pool2d_backward",
            {"hotloop": max_backward, "torch": _torch_formats(torch_max)},
            tap_bytes=1.0,
        ),
        problem.case(
            "avg_pool2d_backward", {"hotloop": avg_backward, "torch": _torch_formats(torch_avg)}
        ),
    ]


def _pools(n: int, c: int, size: int, window: _Window) -> list[Case]:
    problem = _Problem((n, c, size), window)
    return [*_forward(problem), *_backward(problem)]


def _whole_image(n: int, c: int, size: int) -> Case:
    def ours(arrays: Arrays) -> Call:
        x = _channels_last(arrays["x"])
        return lambda: hl.kernels.adaptive_avg_pool2d(x, 1)

    return Case(
        family="pool",
        name=f"adaptive_avg_pool2d to 1 of ({n}, {c}, {size}, {size}) f32",
        inputs=lambda rng: {"x": normal(rng, n, c, size, size)},
        contenders={
            "hotloop": ours,
            "numpy": lambda a: lambda: a["x"].mean((2, 3), keepdims=True),
            "torch": _torch_formats(
                lambda torch, t: lambda: torch.nn.functional.adaptive_avg_pool2d(t["x"], 1)
            ),
        },
        bytes=4.0 * n * c * size * size,
        ceiling="read",
        rtol=1e-5,
    )


CASES = [
    *_pools(32, 32, 8, _PLAIN),
    *_pools(32, 64, 112, _PLAIN),
    *_pools(32, 64, 112, _OVERLAPPING),
    *_pools(32, 32, 222, _PLAIN),
    *_pools(32, 32, 222, _OVERLAPPING),
    _whole_image(32, 2048, 7),
]
