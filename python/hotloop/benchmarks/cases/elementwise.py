"""Arithmetic with broadcasting, elementary functions, comparisons and selections."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..accuracy import REFERENCES
from ..case import Arrays, Build, Call, Case, Target, normal
from ._rivals import torch_call

_NUMPY = {"mul": "multiply", "sub": "subtract", "div": "divide", "pow": "power"}
_LARGE = 1 << 24  # out of the caches


def _binary(name: str, left: tuple[int, ...], right: tuple[int, ...], label: str) -> Case:
    shape = np.broadcast_shapes(left, right)

    def inputs(rng: np.random.Generator) -> Arrays:
        return {
            "a": np.abs(normal(rng, *left)) if name == "pow" else normal(rng, *left),
            "b": np.abs(normal(rng, *right)) + 1,
            "out": np.zeros(shape, np.float32),
        }

    def ours(arrays: Arrays) -> Call:
        function, a, b, out = getattr(hl.kernels, name), arrays["a"], arrays["b"], arrays["out"]
        return lambda: function(a, b, out=out)

    full = _NUMPY.get(name, name)

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
        ceiling="add_nt" if size >= _LARGE and left == right else "",
        over=("a", "b", "out") if size >= _LARGE and left == right else (),
        rtol=1e-5 if name == "pow" else 1e-6,
        target=Target("numpy", 1.0) if name == "add" and size <= 64 else None,
        quick=size <= 100,
    )


def _unary(name: str, size: int) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        x = normal(rng, size)
        if name in ("log", "log1p", "rsqrt", "sqrt"):
            x = np.abs(x) + np.float32(0.01)
        return {"x": x, "out": np.zeros_like(x)}

    def ours(arrays: Arrays) -> Call:
        function, x, out = getattr(hl.kernels, name), arrays["x"], arrays["out"]
        return lambda: function(x, out=out)

    def numpy(arrays: Arrays) -> Call:
        function, x, out = getattr(np, name), arrays["x"], arrays["out"]
        return lambda: function(x, out=out)

    contenders: dict[str, Build] = {
        "hotloop": ours,
        "torch": torch_call(lambda torch, t: lambda: getattr(torch, name)(t["x"], out=t["out"])),
    }
    if hasattr(np, name):
        contenders["numpy"] = numpy
    return Case(
        family="elementwise",
        name=f"{name} of {size:,} f32, out=",
        inputs=inputs,
        contenders=contenders,
        bytes=8.0 * size,
        ceiling="copy_nt" if size >= _LARGE else "",
        over=("x", "out") if size >= _LARGE else (),
        rtol=1e-5,
        ulp=name if name in REFERENCES and size < _LARGE else "",
    )


def _choice(name: str, size: int) -> Case:
    """Comparisons and selections: bool out, bool in."""

    def inputs(rng: np.random.Generator) -> Arrays:
        a, b = normal(rng, size), normal(rng, size)
        return {"a": a, "b": b, "mask": a > 0, "flags": np.zeros(size, bool), "out": a.copy()}

    def ours(arrays: Arrays) -> Call:
        a, b, mask, flags, out = (arrays[key] for key in ("a", "b", "mask", "flags", "out"))
        return {
            "lt": lambda: hl.kernels.lt(a, b, out=flags),
            "where": lambda: hl.kernels.where(mask, a, b, out=out),
            "clip": lambda: hl.kernels.clip(a, -1, 1, out=out),
        }[name]

    def numpy(arrays: Arrays) -> Call:
        a, b, mask, flags, out = (arrays[key] for key in ("a", "b", "mask", "flags", "out"))
        return {
            "lt": lambda: np.less(a, b, out=flags),
            "where": lambda: np.where(mask, a, b),
            "clip": lambda: np.clip(a, -1, 1, out=out),
        }[name]

    def torch(torch: Any, t: dict[str, Any]) -> Call:
        return {
            "lt": lambda: torch.lt(t["a"], t["b"], out=t["flags"]),
            "where": lambda: torch.where(t["mask"], t["a"], t["b"], out=t["out"]),
            "clip": lambda: torch.clamp(t["a"], -1, 1, out=t["out"]),
        }[name]

    return Case(
        family="elementwise",
        name=f"{name} of {size:,} f32",
        inputs=inputs,
        contenders={"hotloop": ours, "numpy": numpy, "torch": torch_call(torch)},
        bytes={"lt": 9.0, "where": 13.0, "clip": 8.0}[name] * size,
        rtol=0.0,
    )


def _fresh(size: int) -> Case:
    """The same without `out=`: what allocating a small result costs."""

    def inputs(rng: np.random.Generator) -> Arrays:
        return {"a": normal(rng, size), "b": normal(rng, size)}

    def ours(arrays: Arrays) -> Call:
        add, a, b = hl.kernels.add, arrays["a"], arrays["b"]
        return lambda: add(a, b)

    def numpy(arrays: Arrays) -> Call:
        a, b = arrays["a"], arrays["b"]
        return lambda: np.add(a, b)

    return Case(
        family="elementwise",
        name=f"add {size} + {size} f32, fresh result",
        inputs=inputs,
        contenders={
            "hotloop": ours,
            "numpy": numpy,
            "torch": torch_call(lambda torch, t: lambda: torch.add(t["a"], t["b"])),
        },
        bytes=12.0 * size,
        rtol=1e-6,
        target=Target("numpy", 1.0),
        quick=True,
    )


CASES = [
    *(_binary("add", (size,), (size,), f"{size} + {size}") for size in (8, 64)),
    *(_fresh(size) for size in (8, 64)),
    _binary("add", (1_000_000,), (1_000_000,), "1 M + 1 M"),
    _binary("add", (_LARGE,), (_LARGE,), "2^24 + 2^24"),
    _binary("mul", (4096, 1000), (1000,), "(4096, 1000) * (1000)"),
    _binary("div", (4096, 1000), (4096, 1), "(4096, 1000) / (4096, 1)"),
    _binary("pow", (1_000_000,), (1_000_000,), "1 M ** 1 M"),
    *(_unary(n, 1 << 20) for n in ("exp", "expm1", "log", "log1p", "sin", "cos", "erf")),
    *(_unary(name, 1 << 20) for name in ("sqrt", "rsqrt", "abs", "sign")),
    *(_unary(name, _LARGE) for name in ("exp", "log", "sin")),
    *(_choice(name, 1 << 20) for name in ("lt", "where", "clip")),
]
