"""Dropout, whose mask is made on the way and never stored."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Call, Case, normal
from ._rivals import torch_call


def _inputs(rng: np.random.Generator) -> Arrays:
    return {"x": normal(rng, 1024, 1024), "out": np.zeros((1024, 1024), np.float32)}


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


CASES = [
    Case(
        family="dropout",
        name="dropout (1024, 1024) f32",
        inputs=_inputs,
        contenders={"hotloop": _ours, "numpy": _numpy, "torch": torch_call(_torch)},
        bytes=8.0 * 1024 * 1024,
        compare=False,
    )
]
