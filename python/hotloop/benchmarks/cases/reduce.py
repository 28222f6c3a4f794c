"""Sums, means and maxima along the last axis, the first, and all."""

from __future__ import annotations

import numpy as np

import hotloop as hl

from ..case import Arrays, Call, Case, normal
from ._rivals import torch_call


def _reduction(name: str, shape: tuple[int, ...], axis: int | None) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        return {"x": normal(rng, *shape)}

    def ours(arrays: Arrays) -> Call:
        function, x = getattr(hl.kernels, name), arrays["x"]
        return lambda: function(x, axis=axis)

    def numpy(arrays: Arrays) -> Call:
        function, x = getattr(np, name), arrays["x"]
        return lambda: function(x, axis=axis)

    torch_name = "amax" if name == "max" else name
    return Case(
        family="reduce",
        name=f"{name} of {shape}, axis {axis} f32",
        inputs=inputs,
        contenders={
            "hotloop": ours,
            "numpy": numpy,
            "torch": torch_call(
                lambda torch, t: (
                    lambda: getattr(torch, torch_name)(
                        t["x"], dim=tuple(range(len(shape))) if axis is None else axis
                    )
                )
            ),
        },
        bytes=4.0 * float(np.prod(shape)),
        ceiling="read" if np.prod(shape) >= 1_000_000 else "",
        rtol=1e-4,
        quick=bool(np.prod(shape) < 10_000),
    )


CASES = [
    _reduction("sum", (64, 64), -1),
    _reduction("sum", (4096, 1000), -1),
    _reduction("sum", (4096, 1000), 0),
    _reduction("mean", (4096, 1000), None),
    _reduction("max", (4096, 1000), -1),
]
