"""Products of bfloat16, rows of gemm, where ml_dtypes is installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Call, Case, Target, normal
from ._rivals import torch_call

SQUARES = (128, 256, 512, 1024, 2048)


def _bits(values: np.ndarray) -> np.ndarray:
    """float32 rounded to bf16, as the 16 bits that every library can view its own way."""
    ml_dtypes: Any = importlib.import_module("ml_dtypes")
    bits: np.ndarray = values.astype(ml_dtypes.bfloat16).view(np.int16)
    return bits


def _hotloop(arrays: Arrays) -> Call:
    ml_dtypes: Any = importlib.import_module("ml_dtypes")
    a, b, out = (arrays[name].view(ml_dtypes.bfloat16) for name in ("a", "b", "out"))
    gemm = hl.kernels.gemm

    def call() -> Any:
        gemm(a, b, out=out)

    return call


def _torch(torch: Any, tensors: dict[str, Any]) -> Call:
    a, b, out = (tensors[name].view(torch.bfloat16) for name in ("a", "b", "out"))

    def call() -> Any:
        torch.matmul(a, b, out=out)

    return call


def _product(size: int) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        return {
            "a": _bits(normal(rng, size, size)),
            "b": _bits(normal(rng, size, size)),
            "out": np.zeros((size, size), np.int16),
        }

    return Case(
        family="gemm",
        name=f"{size}x{size}x{size} bf16",
        inputs=inputs,
        contenders={"hotloop": _hotloop, "torch": torch_call(_torch)},
        flops=2.0 * size**3,
        bytes=6.0 * size**2,
        ceiling="dot_bf16",
        compare=False,  # bits of bf16: both sides round sums of another order
        target=Target("torch", 1.1, 0.88),
        detail=size in (128, 2048),
    )


CASES = [_product(size) for size in SQUARES] if importlib.util.find_spec("ml_dtypes") else []
