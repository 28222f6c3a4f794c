"""Softmax over rows: a classifier's, a language model's, and a small one."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Call, Case, Target, normal
from ._rivals import jax_call, onnx_call, torch_call


def _numpy(arrays: Arrays) -> Call:
    x, out = arrays["x"], arrays["out"]

    def call() -> Any:
        np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
        np.exp(out, out=out)
        return np.divide(out, out.sum(axis=-1, keepdims=True), out=out)

    return call


def _numpy_log(arrays: Arrays) -> Call:
    x, out = arrays["x"], arrays["out"]

    def call() -> Any:
        np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
        return np.subtract(out, np.log(np.exp(out).sum(axis=-1, keepdims=True)), out=out)

    return call


def _rows(name: str, rows: int, columns: int, promised: float = 0.0) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        x = normal(rng, rows, columns)
        return {"x": x, "out": np.zeros_like(x)}

    def ours(arrays: Arrays) -> Call:
        function, x, out = getattr(hl.kernels, name), arrays["x"], arrays["out"]
        return lambda: function(x, out=out)

    return Case(
        family="softmax",
        name=f"{name} of ({rows}, {columns}) f32, out=",
        inputs=inputs,
        contenders={
            "hotloop": ours,
            "numpy": _numpy if name == "softmax" else _numpy_log,
            "torch": torch_call(
                lambda torch, t: lambda: getattr(torch, name)(t["x"], -1, out=t["out"])
            ),
            "jax": jax_call(lambda jax: getattr(jax.nn, name), ("x",)),
            "onnxruntime": onnx_call(
                "Softmax" if name == "softmax" else "LogSoftmax", ("x",), {"axis": -1}
            ),
        },
        bytes=8.0 * rows * columns,
        ceiling="copy" if rows * columns >= 1_000_000 else "",
        rtol=1e-5,
        target=Target("torch", promised) if promised else None,
        quick=rows * columns < 10_000,
    )


def _backward(rows: int, columns: int) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        y = hl.kernels.softmax(normal(rng, rows, columns))
        return {"dy": normal(rng, rows, columns), "y": y, "out": np.zeros_like(y)}

    def ours(arrays: Arrays) -> Call:
        dy, y, out = arrays["dy"], arrays["y"], arrays["out"]
        return lambda: hl.kernels.softmax_backward(dy, y, out=out)

    def theirs(torch: Any, t: dict[str, Any]) -> Call:
        return lambda: torch._softmax_backward_data(t["dy"], t["y"], -1, torch.float32)

    return Case(
        family="softmax",
        name=f"softmax_backward of ({rows}, {columns}) f32, out=",
        inputs=inputs,
        contenders={"hotloop": ours, "torch": torch_call(theirs)},
        bytes=12.0 * rows * columns,
        rtol=1e-4,
        target=Target("torch", 1.0),
    )


def _small(size: int) -> Case:
    """What a call costs, beside three calls of NumPy's nearest function."""

    def inputs(rng: np.random.Generator) -> Arrays:
        x = normal(rng, size)
        return {"x": x, "out": np.zeros_like(x)}

    def three(arrays: Arrays) -> Call:
        x, out = arrays["x"], arrays["out"]

        def call() -> Any:
            np.exp(x, out=out)
            np.exp(x, out=out)
            return np.exp(x, out=out)

        return call

    def ours(arrays: Arrays) -> Call:
        x, out = arrays["x"], arrays["out"]
        return lambda: hl.kernels.softmax(x, out=out)

    return Case(
        family="softmax",
        name=f"softmax of {size} f32, out= (NumPy: three times exp)",
        inputs=inputs,
        contenders={"hotloop": ours, "numpy": three},
        bytes=8.0 * size,
        compare=False,
        target=Target("numpy", 1.0),
        quick=True,
    )


CASES = [
    _small(8),
    _small(64),
    _rows("softmax", 32, 10),
    _rows("softmax", 128, 10, 1.5),
    _rows("softmax", 4096, 1000, 1.5),
    _rows("softmax", 256, 50257, 1.5),
    _rows("log_softmax", 4096, 1000),
    _backward(1000, 1000),
    _backward(4096, 1000),
]
