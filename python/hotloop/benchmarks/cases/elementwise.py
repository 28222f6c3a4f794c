"""Arithmetic with NumPy's broadcasting."""

from __future__ import annotations

import numpy as np

import hotloop as hl

from ..case import Arrays, Call, Case, normal
from ._rivals import torch_call


def _binary(name: str, left: tuple[int, ...], right: tuple[int, ...], label: str) -> Case:
    shape = np.broadcast_shapes(left, right)

    def inputs(rng: np.random.Generator) -> Arrays:
        return {
            "a": normal(rng, *left),
            "b": np.abs(normal(rng, *right)) + 1,
            "out": np.zeros(shape, np.float32),
        }

    def ours(arrays: Arrays) -> Call:
        function, a, b, out = getattr(hl.kernels, name), arrays["a"], arrays["b"], arrays["out"]
        return lambda: function(a, b, out=out)

    full = {"add": "add", "mul": "multiply", "sub": "subtract", "div": "divide"}[name]

    def numpy(arrays: Arrays) -> Call:
        function, a, b, out = getattr(np, full), arrays["a"], arrays["b"], arrays["out"]
        return lambda: function(a, b, out=out)

    size = int(np.prod(shape))
    return Case(
        family="elementwise",
        name=f"{name} {label} f32, out=",
        inputs=inputs,
        contenders={
            "hotloop": ours,
            "numpy": numpy,
            "torch": torch_call(
                lambda torch, t: lambda: getattr(torch, name)(t["a"], t["b"], out=t["out"])
            ),
        },
        bytes=4.0 * (size + int(np.prod(left)) + int(np.prod(right))),
        rtol=1e-6,
        quick=size <= 100,
    )


CASES = [
    _binary("add", (8,), (8,), "8 + 8"),
    _binary("add", (1_000_000,), (1_000_000,), "1 M + 1 M"),
    _binary("mul", (4096, 1000), (1000,), "(4096, 1000) * (1000)"),
    _binary("div", (4096, 1000), (4096, 1), "(4096, 1000) / (4096, 1)"),
]
