"""Dropout, whose mask is made on the way and never stored."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Call, Case, Target, normal
from ._rivals import torch_call


def _ours(arrays: Arrays) -> Call:
    x, out = arrays["x"], arrays["out"]
    return lambda: hl.kernels.dropout(x, 0.5, out=out)


def _numpy(arrays: Arrays) -> Call:
    x, out = arrays["x"], arrays["out"]
    generator = np.random.default_rng(0)

    def call() -> Any:
        mask = generator.random(x.shape, dtype=np.float32) >= 0.5
        return np.multiply(np.multiply(x, mask, out=out), 2.0, out=out)

    return call


def _torch(torch: Any, t: dict[str, Any]) -> Call:
    return lambda: torch.nn.functional.dropout(t["x"], 0.5)


def _ours_both(arrays: Arrays) -> Call:
    x, out = arrays["x"], arrays["out"]

    def call() -> None:
        key = hl.kernels.random_key()
        hl.kernels.dropout(x, 0.5, key=key, out=out)
        hl.kernels.dropout_backward(x, 0.5, key=key, out=out)

    return call


def _torch_both(torch: Any, t: dict[str, Any]) -> Call:
    x, dy = t["x"].requires_grad_(), t["out"]

    def call() -> None:
        with torch.enable_grad():
            torch.autograd.grad(torch.nn.functional.dropout(x, 0.5), x, dy)

    return call


def _cases(bits: int) -> list[Case]:
    size = 1 << bits

    def inputs(rng: np.random.Generator) -> Arrays:
        return {"x": normal(rng, size), "out": np.zeros(size, np.float32)}

    shared: dict[str, Any] = {
        "family": "dropout",
        "inputs": inputs,
        "compare": False,
        "ceiling": "copy_nt" if bits > 22 else "",
        "over": ("x", "out") if bits > 22 else (),
        "target": Target("torch", 5.0),
    }
    return [
        Case(
            name=f"dropout 2^{bits} f32",
            contenders={"hotloop": _ours, "numpy": _numpy, "torch": torch_call(_torch)},
            bytes=8.0 * size,
            **shared,
        ),
        Case(
            name=f"dropout 2^{bits} f32, forward and backward",
            contenders={"hotloop": _ours_both, "torch": torch_call(_torch_both)},
            bytes=16.0 * size,
            **shared,
        ),
    ]


CASES = [*_cases(20), *_cases(24)]
