"""Activations with `out=`: eight floats, where the call costs, and millions, where memory does."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..accuracy import REFERENCES
from ..case import Arrays, Build, Call, Case, Target, normal
from ._rivals import torch_call


def _inputs(size: int) -> Any:
    def inputs(rng: np.random.Generator) -> Arrays:
        x = normal(rng, size)
        return {"x": x, "dy": normal(rng, size), "out": np.zeros_like(x)}

    return inputs


def _numpy(name: str) -> Build | None:
    """The shortest NumPy spelling with `out=`, for the few that have one."""

    def build(arrays: Arrays) -> Call:
        x, out = arrays["x"], arrays["out"]
        if name == "relu":
            return lambda: np.maximum(x, 0, out=out)
        if name == "tanh":
            return lambda: np.tanh(x, out=out)

        def sigmoid() -> Any:
            np.exp(np.negative(x, out=out), out=out)
            return np.reciprocal(np.add(out, 1, out=out), out=out)

        return sigmoid

    return build if name in ("relu", "tanh", "sigmoid") else None


# What PyTorch calls it, in a form that writes into `out`.
_TORCH: dict[str, Any] = {
    "relu": lambda torch, t: lambda: torch.clamp_min(t["x"], 0, out=t["out"]),
    "leaky_relu": lambda torch, t: lambda: torch._C._nn.leaky_relu(t["x"], 0.01, out=t["out"]),
    "elu": lambda torch, t: lambda: torch._C._nn.elu(t["x"], out=t["out"]),
    "gelu": lambda torch, t: lambda: torch._C._nn.gelu(t["x"], out=t["out"]),
    "gelu_tanh": lambda torch, t: (
        lambda: torch._C._nn.gelu(t["x"], approximate="tanh", out=t["out"])
    ),
    "silu": lambda torch, t: lambda: torch._C._nn.silu(t["x"], out=t["out"]),
    "sigmoid": lambda torch, t: lambda: torch.sigmoid(t["x"], out=t["out"]),
    "tanh": lambda torch, t: lambda: torch.tanh(t["x"], out=t["out"]),
    "softplus": lambda torch, t: lambda: torch._C._nn.softplus(t["x"], out=t["out"]),
    "hardswish": lambda torch, t: lambda: torch._C._nn.hardswish(t["x"], out=t["out"]),
}


def _target(size: int) -> Target | None:
    """Out of the caches the copy's share; below, as fast as the best rival."""
    if size >= 1 << 24:
        return Target("ceiling", 0.9)
    return Target("best", 1.0) if size in (1 << 14, 1 << 20) else None


def _mean(size: int) -> tuple[str, Target] | None:
    if size not in (1 << 14, 1 << 20):
        return None
    return f"activations of {size:,} f32, forward and backward", Target("best", 1.5)


def _forward(name: str, size: int) -> Case:
    def ours(arrays: Arrays) -> Call:
        function, x, out = getattr(hl.kernels, name), arrays["x"], arrays["out"]
        return lambda: function(x, out=out)

    contenders: dict[str, Build] = {"hotloop": ours, "torch": torch_call(_TORCH[name])}
    numpy = _numpy(name)
    if numpy is not None:
        contenders["numpy"] = numpy
    return Case(
        family="activation",
        name=f"{name} of {size:,} f32, out=",
        inputs=_inputs(size),
        contenders=contenders,
        bytes=8.0 * size,
        ceiling="copy_nt" if size >= 1 << 24 else "",
        over=("x", "out") if size >= 1 << 24 else (),
        rtol=1e-5,
        ulp=name if name in REFERENCES and size == 1 << 20 else "",
        target=Target("numpy", 1.0) if size <= 64 else _target(size),
        mean=_mean(size),
        quick=name == "relu" and size <= 64,
    )


# What PyTorch calls the gradient: of dy and of what it saved, y here where ours reads y.
_TORCH_BACKWARD: dict[str, Any] = {
    "relu": lambda ops, dy, x, out: ops.threshold_backward.grad_input(dy, x, 0, grad_input=out),
    "leaky_relu": lambda ops, dy, x, out: ops.leaky_relu_backward.grad_input(
        dy, x, 0.01, False, grad_input=out
    ),
    "elu": lambda ops, dy, x, out: ops.elu_backward.grad_input(
        dy, 1.0, 1.0, 1.0, True, x, grad_input=out
    ),
    "gelu": lambda ops, dy, x, out: ops.gelu_backward.grad_input(dy, x, grad_input=out),
    "gelu_tanh": lambda ops, dy, x, out: ops.gelu_backward.grad_input(
        dy, x, approximate="tanh", grad_input=out
    ),
    "silu": lambda ops, dy, x, out: ops.silu_backward.grad_input(dy, x, grad_input=out),
    "sigmoid": lambda ops, dy, x, out: ops.sigmoid_backward.grad_input(dy, x, grad_input=out),
    "tanh": lambda ops, dy, x, out: ops.tanh_backward.grad_input(dy, x, grad_input=out),
    "softplus": lambda ops, dy, x, out: ops.softplus_backward.grad_input(
        dy, x, 1.0, 20.0, grad_input=out
    ),
    "hardswish": lambda ops, dy, x, out: ops.hardswish_backward.out(dy, x, out=out),
}


def _backward(name: str, size: int) -> Case:
    def ours(arrays: Arrays) -> Call:
        function = getattr(hl.kernels, f"{name}_backward")
        dy, x, out = arrays["dy"], arrays["x"], arrays["out"]
        if name == "softplus":  # PyTorch saves x, we save y
            x = hl.kernels.softplus(x)
        return lambda: function(dy, x, out=out)

    def numpy(arrays: Arrays) -> Call:
        dy, x, out = arrays["dy"], arrays["x"], arrays["out"]
        return lambda: np.multiply(dy, x > 0, out=out)

    make = _TORCH_BACKWARD[name]
    contenders: dict[str, Build] = {
        "hotloop": ours,
        "torch": torch_call(
            lambda torch, t: lambda: make(torch.ops.aten, t["dy"], t["x"], t["out"])
        ),
    }
    if name == "relu":
        contenders["numpy"] = numpy
    return Case(
        family="activation",
        name=f"{name}_backward of {size:,} f32, out=",
        inputs=_inputs(size),
        contenders=contenders,
        bytes=12.0 * size,
        ceiling="add_nt" if size >= 1 << 24 else "",
        over=("dy", "x", "out") if size >= 1 << 24 else (),
        rtol=1e-5,
        target=_target(size),
        mean=_mean(size),
    )


def _fresh(is_fresh: bool) -> Case:
    """A fresh output of 200 MB, freed at once as in training, beside one that is used again."""
    size = 50_000_000

    def inputs(rng: np.random.Generator) -> Arrays:
        return {"x": normal(rng, size), "out": np.zeros(0, np.float32)}

    def fresh(arrays: Arrays) -> Call:
        x = arrays["x"]
        return lambda: hl.kernels.relu(x)

    def reused(arrays: Arrays) -> Call:
        x = arrays["x"]
        out = hl.kernels.relu(x)
        return lambda: hl.kernels.relu(x, out=out)

    return Case(
        family="activation",
        name=f"relu of 200 MB, {'fresh' if is_fresh else 'reused'} output",
        inputs=inputs,
        contenders={"hotloop": {"": fresh if is_fresh else reused}},
        bytes=8.0 * size,
        ceiling="copy_nt",
        compare=False,
    )


CASES = [
    _forward("relu", 8),
    _forward("relu", 64),
    _forward("relu", 1000),
    _fresh(True),
    _fresh(False),
    *(_forward(name, size) for size in (1 << 14, 1 << 20, 1 << 24) for name in _TORCH),
    *(_backward(name, size) for size in (1 << 14, 1 << 20, 1 << 24) for name in _TORCH_BACKWARD),
]
