"""Bytes for numbers; the products of bytes are rows of gemm."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Call, Case, normal
from ._rivals import torch_call


def _quantize(size: int) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        return {"x": normal(rng, size), "out": np.zeros(size, np.uint8)}

    def ours(arrays: Arrays) -> Call:
        x, out = arrays["x"], arrays["out"]
        return lambda: hl.kernels.quantize(x, 0.05, 128, out=out)

    def numpy(arrays: Arrays) -> Call:
        x = arrays["x"]

        def call() -> Any:
            return np.clip(np.rint(x / np.float32(0.05)) + 128, 0, 255).astype(np.uint8)

        return call

    return Case(
        family="quant",
        name=f"quantize {size} f32 -> uint8",
        inputs=inputs,
        contenders={
            "hotloop": ours,
            "numpy": numpy,
            "torch": torch_call(
                lambda torch, t: (
                    lambda: torch.quantize_per_tensor(t["x"], 0.05, 128, torch.quint8).int_repr()
                )
            ),
        },
        bytes=5.0 * size,
        ceiling="copy",
        rtol=0.006,  # PyTorch multiplies by 1 / scale: one step where that rounds otherwise
        quick=size <= 1000,
    )


CASES = [
    _quantize(1000),
    _quantize(1_000_000),
]
