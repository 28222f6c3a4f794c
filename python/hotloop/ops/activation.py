"""Functions of one element: activations, exp, log and their like."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import kernels
from ..autograd import Backward, Node, is_grad_enabled, record, recording, wrap
from .arithmetic import where
from .common import Array, tensor_of

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "cos", "elu", "erf", "exp", "expm1", "gelu", "hardswish", "leaky_relu", "log", "log1p",
    "reciprocal", "relu", "rsqrt", "sigmoid", "silu", "sin", "softplus", "sqrt", "square", "tanh",
]  # fmt: skip


def _array(op: str, a: Tensor) -> Array:
    """a's array; the kernel checks its dtype."""
    try:
        return a._data
    except AttributeError:
        return tensor_of(op, a)._data


# ------------------------------------------------------------------------------------------
# Kernels with a backward twin. `saved` is the array it reads (the output where that suffices, so
# that the input can be freed) and its options.


def _twin(gradient: Callable[..., Array]) -> Backward:
    """A kernel's backward as the tape calls it."""

    def backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
        kept, options = node.saved
        return (gradient(dy, kept, **options),)

    backward.__name__ = gradient.__name__
    return backward


def _of_input(a: Tensor, out: Array, backward: Backward, **options: Any) -> Tensor:
    if recording(a):
        return record(out, backward, (a,), (a._data, options), (a,))
    return wrap(out)


def _of_output(a: Tensor, out: Array, backward: Backward, **options: Any) -> Tensor:
    if a._needs and is_grad_enabled():
        return record(out, backward, (a,), (out, options), guard_output=True)
    return wrap(out)


_relu_backward = _twin(kernels.relu_backward)
_sigmoid_backward = _twin(kernels.sigmoid_backward)
_tanh_backward = _twin(kernels.tanh_backward)
_leaky_relu_backward = _twin(kernels.leaky_relu_backward)
_elu_backward = _twin(kernels.elu_backward)
_gelu_backward = _twin(kernels.gelu_backward)
_gelu_tanh_backward = _twin(kernels.gelu_tanh_backward)
_silu_backward = _twin(kernels.silu_backward)
_softplus_backward = _twin(kernels.softplus_backward)
_hardswish_backward = _twin(kernels.hardswish_backward)


def relu(a: Tensor) -> Tensor:
    """max(a, 0)."""
    return _of_output(a, kernels.relu(_array("relu", a)), _relu_backward)


def sigmoid(a: Tensor) -> Tensor:
    """1 / (1 + exp(-a))."""
    return _of_output(a, kernels.sigmoid(_array("sigmoid", a)), _sigmoid_backward)


def tanh(a: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return _of_output(a, kernels.tanh(_array("tanh", a)), _tanh_backward)


def leaky_relu(a: Tensor, negative_slope: float = 0.01) -> Tensor:
    """a where a > 0, negative_slope * a elsewhere."""
    out = kernels.leaky_relu(_array("leaky_relu", a), negative_slope)
    return _of_output(a, out, _leaky_relu_backward, negative_slope=negative_slope)


def elu(a: Tensor, alpha: float = 1.0) -> Tensor:
    """a where a > 0, alpha * (exp(a) - 1) elsewhere."""
    out = kernels.elu(_array("elu", a), alpha)
    return _of_output(a, out, _elu_backward, alpha=alpha)


def gelu(a: Tensor, approximate: str = "none") -> Tensor:
    """a * Phi(a), Phi the normal distribution; approximate="tanh" is the older formula."""
    if approximate == "tanh":
        return _of_input(a, kernels.gelu_tanh(_array("gelu", a)), _gelu_tanh_backward)
    if approximate != "none":
        raise ValueError(f'gelu: approximate must be "none" or "tanh", got {approximate!r}')
    return _of_input(a, kernels.gelu(_array("gelu", a)), _gelu_backward)


def silu(a: Tensor) -> Tensor:
    """a * sigmoid(a)."""
    return _of_input(a, kernels.silu(_array("silu", a)), _silu_backward)


def softplus(a: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * a)) / beta, and a itself where beta * a > threshold."""
    out = _of_output(
        a, kernels.softplus(_array("softplus", a), beta), _softplus_backward, beta=beta
    )
    # From 20 on the two differ by less than exp(-20): nobody asks for a higher threshold.
    return out if threshold >= 20.0 else where(a * beta > threshold, a, out)


def hardswish(a: Tensor) -> Tensor:
    """a * min(max(a + 3, 0), 6) / 6."""
    return _of_input(a, kernels.hardswish(_array("hardswish", a)), _hardswish_backward)


# ------------------------------------------------------------------------------------------
# Elementary functions: a kernel and its derivative, which reads the input or the output. Kernels
# say nothing about overflow and NaN.


def _function(
    name: str, text: str, derivative: Callable[[Array, Array], Array], *, of_output: bool = False
) -> Callable[[Tensor], Tensor]:
    """The op of a kernel. derivative(dy, kept) gives the gradient, kept being the input or the
    output."""
    kernel = getattr(kernels, name)

    def backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
        return (derivative(dy, node.saved[0]),)

    def function(a: Tensor) -> Tensor:
        out = kernel(_array(name, a))
        if not recording(a):
            return wrap(out)
        if of_output:
            return record(out, backward, (a,), (out,), guard_output=True)
        return record(out, backward, (a,), (a._data,), (a,))

    backward.__name__ = f"_{name}_backward"
    function.__name__ = function.__qualname__ = name
    function.__doc__ = text
    return function


_k: Any = kernels
_mul, _div, _neg = _k.mul, _k.div, _k.neg

exp = _function("exp", "e to the power of a.", lambda dy, y: _mul(dy, y), of_output=True)
expm1 = _function(
    "expm1", "exp(a) - 1, exact near 0.", lambda dy, y: _mul(dy, _k.add(y, 1)), of_output=True
)
log = _function("log", "The natural logarithm: -inf at 0, NaN below.", lambda dy, x: _div(dy, x))
log1p = _function("log1p", "log(1 + a), exact near 0.", lambda dy, x: _div(dy, _k.add(x, 1)))
sqrt = _function(
    "sqrt", "The square root: NaN below 0.", lambda dy, y: _div(dy, _mul(y, 2)), of_output=True
)
rsqrt = _function(
    "rsqrt",
    "1 / sqrt(a).",
    lambda dy, y: _mul(_mul(dy, -0.5), _mul(_k.square(y), y)),
    of_output=True,
)
reciprocal = _function(
    "reciprocal", "1 / a.", lambda dy, y: _neg(_mul(dy, _k.square(y))), of_output=True
)
square = _function("square", "a * a.", lambda dy, x: _mul(dy, _mul(x, 2)))
sin = _function("sin", "The sine, of any argument.", lambda dy, x: _mul(dy, _k.cos(x)))
cos = _function("cos", "The cosine, of any argument.", lambda dy, x: _neg(_mul(dy, _k.sin(x))))
erf = _function(
    "erf",
    "The error function.",
    lambda dy, x: _mul(_mul(dy, 2 / math.sqrt(math.pi)), _k.exp(_neg(_k.square(x)))),
)
