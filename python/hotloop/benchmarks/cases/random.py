"""Random numbers into given memory."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Call, Case
from ._rivals import torch_call


def _inputs(rng: np.random.Generator) -> Arrays:
    return {"out": np.zeros(1_000_000, np.float32)}


def _case(name: str, numpy_name: str, torch_name: str) -> Case:
    def ours(arrays: Arrays) -> Call:
        function, out = getattr(hl.kernels, name), arrays["out"]
        return lambda: function(out.shape, out=out)

    def numpy(arrays: Arrays) -> Call:
        generator, out = np.random.default_rng(0), arrays["out"]
        return lambda: getattr(generator, numpy_name)(out=out, dtype=np.float32)

    def torch(_torch: Any, t: dict[str, Any]) -> Call:
        return lambda: getattr(t["out"], torch_name)()

    return Case(
        family="random",
        name=f"{name} 1 M f32, out=",
        inputs=_inputs,
        contenders={"hotloop": ours, "numpy": numpy, "torch": torch_call(torch)},
        bytes=4e6,
        compare=False,
    )


CASES = [
    _case("uniform", "random", "uniform_"),
    _case("normal", "standard_normal", "normal_"),
]
