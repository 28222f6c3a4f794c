"""Products of bytes, rows of gemm."""

from __future__ import annotations

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target
from ._rivals import onnx_call, torch_call

SQUARES = (64, 256, 512, 1024, 2048)


def _hotloop(arrays: Arrays) -> Call:
    a, b, out = arrays["a"], arrays["b"], arrays["out"]
    gemm_int8 = hl.kernels.gemm_int8
    return lambda: gemm_int8(a, b, out=out)


def _numpy(arrays: Arrays) -> Call:
    a, b, out = arrays["a"], arrays["b"], arrays["out"]
    return lambda: np.matmul(a, b, out=out, dtype=np.int32)


def _product(size: int, dtype: str) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        info = np.iinfo(dtype)
        return {
            "a": rng.integers(info.min, info.max + 1, (size, size)).astype(dtype),
            "b": rng.integers(-128, 128, (size, size)).astype(np.int8),
            "out": np.zeros((size, size), np.int32),
        }

    contenders: dict[str, Build] = {"hotloop": _hotloop}
    if size <= 256:  # no BLAS multiplies integers: NumPy's loop takes seconds from there on
        contenders["numpy"] = _numpy
    # Each rival where it is at its best: ONNX Runtime takes ten times as long for int8 x int8.
    if dtype == "int8" and size >= 32:
        contenders["torch"] = torch_call(
            lambda torch, t: lambda: torch._int_mm(t["a"], t["b"], out=t["out"])
        )
    if dtype == "uint8":
        contenders["onnxruntime"] = onnx_call("MatMulInteger", ("a", "b"), result="int32")
    rival = "torch" if dtype == "int8" else "onnxruntime"
    return Case(
        family="gemm",
        name=f"{size}x{size}x{size} {dtype} x int8",
        inputs=inputs,
        contenders=contenders,
        flops=2.0 * size**3,
        bytes=6.0 * size**2,
        ceiling="dot_int8",
        target=Target(rival, 1.1, 0.8) if size >= 256 else None,
        quick=size == 64,
        detail=size in (64, 2048),
    )


CASES = [_product(size, dtype) for dtype in ("int8", "uint8") for size in SQUARES]
