"""Reductions along the last axis, the first, and all."""

from __future__ import annotations

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target, normal
from ._rivals import torch_call


def _reduction(name: str, shape: tuple[int, ...], axis: int | None) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        return {"x": normal(rng, *shape)}

    def ours(arrays: Arrays) -> Call:
        function, x = getattr(hl.kernels, name), arrays["x"]
        return lambda: function(x, axis=axis, **how)

    def numpy(arrays: Arrays) -> Call:
        function, x = getattr(np, name), arrays["x"]
        return lambda: function(x, axis=axis)

    torch_name = "amax" if name == "max" else name
    every = None if name == "argmax" else tuple(range(len(shape)))
    how = {"correction": 0} if name in ("var", "std") else {}  # NumPy's
    contenders: dict[str, Build] = {
        "hotloop": ours,
        "torch": torch_call(
            lambda torch, t: (
                lambda: getattr(torch, torch_name)(
                    t["x"], dim=every if axis is None else axis, **how
                )
            )
        ),
    }
    if hasattr(np, name):
        contenders["numpy"] = numpy
    large = bool(np.prod(shape) >= 1 << 24)
    square = shape == (1000, 1000)
    promised = large and name in ("sum", "mean", "var", "max")
    return Case(
        family="reduce",
        name=f"{name} of {shape}, axis {axis} f32",
        inputs=inputs,
        contenders=contenders,
        bytes=4.0 * float(np.prod(shape)),
        ceiling="read" if np.prod(shape) >= 1_000_000 else "",
        over=("x",) if np.prod(shape) >= 1_000_000 else (),
        rtol=1e-4,
        target=Target("ceiling", 0.9) if promised else Target("best", 1.0) if square else None,
        quick=bool(np.prod(shape) < 10_000),
    )


_LARGE = (4096, 4096)

CASES = [
    _reduction("sum", (64, 64), -1),
    _reduction("sum", (1000, 1000), -1),
    _reduction("sum", (4096, 1000), -1),
    _reduction("sum", (4096, 1000), 0),
    _reduction("mean", (4096, 1000), None),
    _reduction("max", (4096, 1000), -1),
    *(_reduction(n, _LARGE, axis) for n in ("sum", "mean", "var", "max") for axis in (-1, 0, None)),
    _reduction("std", (4096, 1000), 0),
    *(_reduction("argmax", (4096, 1000), axis) for axis in (-1, 0, None)),
    _reduction("logsumexp", (4096, 1000), -1),
    _reduction("cumsum", (4096, 1000), -1),
    _reduction("cumsum", (4096, 1000), 0),
]
