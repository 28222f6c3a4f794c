"""Matrix products: squares, the shapes of common networks, and a linear layer."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target, normal
from ._rivals import jax_call, onnx_call, torch_call

# m, n, k of layers people run: an MLP's, a CNN's dense layer, a vision transformer's, a row vector.
SQUARES = (32, 64, 128, 256, 512, 1024, 2048)
LAYERS = ((64, 64, 784), (100, 512, 4096), (788, 768, 3072), (8, 4096, 4096), (1, 4096, 4096))


def _hotloop(arrays: Arrays) -> Call:
    a, b, out = arrays["a"], arrays["b"], arrays["out"]
    gemm = hl.kernels.gemm
    return lambda: gemm(a, b, out=out)


def _numpy(arrays: Arrays) -> Call:
    a, b, out = arrays["a"], arrays["b"], arrays["out"]
    return lambda: np.matmul(a, b, out=out)


def _product(m: int, n: int, k: int, dtype: str = "float32") -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        return {
            "a": normal(rng, m, k, dtype=dtype),
            "b": normal(rng, k, n, dtype=dtype),
            "out": np.zeros((m, n), dtype),
        }

    rivals: dict[str, Build] = {
        "hotloop": _hotloop,
        "numpy": _numpy,
        "torch": torch_call(lambda torch, t: lambda: torch.matmul(t["a"], t["b"], out=t["out"])),
        "jax": jax_call(lambda jax: lambda a, b: a @ b, ("a", "b")),
        "onnxruntime": onnx_call("MatMul", ("a", "b")),
    }
    itemsize = np.dtype(dtype).itemsize
    return Case(
        family="gemm",
        name=f"{m}x{n}x{k} f{8 * itemsize}",
        inputs=inputs,
        contenders=rivals,
        flops=2.0 * m * n * k,
        bytes=float(itemsize) * (m * k + k * n + m * n),
        ceiling="fma",
        rtol=1e-4 if itemsize == 4 else 1e-12,
        target=Target("numpy", 1.6) if m == n == k >= 512 and itemsize == 4 else None,
        quick=m == n == k and m <= 64,
        tags=frozenset({"blas"}),
    )


def _linear(rows: int, features: int, outputs: int) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        return {
            "x": normal(rng, rows, features),
            "w": normal(rng, outputs, features),
            "b": normal(rng, outputs),
            "out": np.zeros((rows, outputs), np.float32),
        }

    def ours(arrays: Arrays) -> Call:
        x, w, b, out = (arrays[name] for name in ("x", "w", "b", "out"))
        linear = hl.kernels.linear
        return lambda: linear(x, w, b, activation="relu", out=out)

    def numpy(arrays: Arrays) -> Call:
        x, w, b, out = (arrays[name] for name in ("x", "w", "b", "out"))

        def call() -> Any:
            np.matmul(x, w.T, out=out)
            np.add(out, b, out=out)
            return np.maximum(out, 0, out=out)

        return call

    return Case(
        family="gemm",
        name=f"linear+relu {rows}, {features}->{outputs} f32",
        inputs=inputs,
        contenders={
            "hotloop": ours,
            "numpy": numpy,
            "torch": torch_call(
                lambda torch, t: (
                    lambda: torch.relu_(torch.nn.functional.linear(t["x"], t["w"], t["b"]))
                )
            ),
            "jax": jax_call(
                lambda jax: lambda x, w, b: jax.numpy.maximum(x @ w.T + b, 0), ("x", "w", "b")
            ),
        },
        flops=2.0 * rows * features * outputs,
        bytes=4.0 * (rows * features + outputs * features + outputs + rows * outputs),
        ceiling="fma",
        tags=frozenset({"blas"}),
        quick=rows * features * outputs < 200_000,
    )


CASES = [
    *(_product(size, size, size) for size in SQUARES),
    *(_product(m, n, k) for m, n, k in LAYERS),
    _product(512, 512, 512, "float64"),
    _linear(32, 64, 64),
    _linear(128, 784, 512),
]
