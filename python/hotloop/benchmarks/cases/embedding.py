"""Embedding: rows of a table, and the gradient of the table."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Call, Case, Target, normal
from ._rivals import torch_call


def _numpy_backward(arrays: Arrays) -> Call:
    dy, indices, weight = arrays["dy"], arrays["indices"], arrays["weight"]

    def call() -> Any:
        dweight = np.zeros_like(weight)
        np.add.at(dweight, indices, dy)
        return dweight

    return call


def _table(positions: int, rows: int, width: int, *, promised: bool = False) -> list[Case]:
    def inputs(rng: np.random.Generator) -> Arrays:
        return {
            "indices": rng.integers(0, rows, positions),
            "weight": normal(rng, rows, width),
            "dy": normal(rng, positions, width),
            "out": np.zeros((positions, width), np.float32),
        }

    def backward(a: Arrays) -> Call:
        dy, indices = a["dy"], a["indices"]
        return lambda: hl.kernels.embedding_backward(dy, indices, rows)

    def torch_backward(torch: Any, t: dict[str, Any]) -> Call:
        function = torch.ops.aten.embedding_dense_backward
        return lambda: function(t["dy"], t["indices"], rows, -1, False)

    label = f"{positions} indices, ({rows}, {width}) f32"
    touched = 4.0 * positions * width
    shared: dict[str, Any] = {"family": "embedding", "inputs": inputs, "quick": rows < 1000}
    ceiling = "copy_nt" if touched > 4e6 else ""
    return [
        Case(
            name=f"forward of {label}",
            contenders={
                "hotloop": lambda a: (
                    lambda: hl.kernels.embedding(a["indices"], a["weight"], out=a["out"])
                ),
                "numpy": lambda a: (
                    lambda: np.take(a["weight"], a["indices"], axis=0, out=a["out"], mode="clip")
                ),
                "torch": torch_call(
                    lambda torch, t: (
                        lambda: torch.nn.functional.embedding(t["indices"], t["weight"])
                    )
                ),
            },
            bytes=2 * touched,
            ceiling=ceiling,
            **shared,
        ),
        Case(
            name=f"backward of {label}",
            contenders={
                "hotloop": backward,
                "numpy": _numpy_backward,
                "torch": torch_call(torch_backward),
            },
            bytes=touched + 4.0 * rows * width,
            ceiling=ceiling,
            target=Target("torch", 3.0) if promised else None,
            **shared,
        ),
    ]


CASES = [*_table(2**16, 50_000, 256, promised=True), *_table(256, 500, 32)]
