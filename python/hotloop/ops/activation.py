"""Functions of one element: activations, exp, log and their like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from .._core import DTypeError
from ..autograd import Backward, Node, is_grad_enabled, record, recording, wrap
from .arithmetic import where
from .common import Array, tensor_of

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "cos", "elu", "exp", "gelu", "hardswish", "leaky_relu", "log", "reciprocal", "relu", "rsqrt",
    "sigmoid", "silu", "sin", "softplus", "sqrt", "square", "tanh",
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
# Elementary functions. NumPy's, like the kernels, say nothing about overflow and NaN here.


def exp(a: Tensor) -> Tensor:
    """e to the power of a."""
    out = kernels.exp(_array("exp", a))
    if recording(a):
        return record(out, _exp_backward, (a,), (out,), guard_output=True)
    return wrap(out)


def _exp_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (kernels.mul(dy, node.saved[0]),)


def log(a: Tensor) -> Tensor:
    """The natural logarithm: -inf at 0, NaN below."""
    out = kernels.log(_array("log", a))
    if recording(a):
        return record(out, _log_backward, (a,), (a._data,), (a,))
    return wrap(out)


def _log_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (kernels.div(dy, node.saved[0]),)


def sqrt(a: Tensor) -> Tensor:
    """The square root: NaN below 0."""
    out = kernels.sqrt(_array("sqrt", a))
    if recording(a):
        return record(out, _sqrt_backward, (a,), (out,), guard_output=True)
    return wrap(out)


def _sqrt_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (kernels.div(dy, kernels.add(node.saved[0], node.saved[0])),)


def _by_numpy(op: str, function: np.ufunc, a: Tensor) -> Array:
    data = tensor_of(op, a)._data
    if data.dtype.kind != "f":
        raise DTypeError(f"{op}: a float tensor is expected, got {data.dtype}; call .float() first")
    with np.errstate(all="ignore"):
        return np.asarray(function(data))


def sin(a: Tensor) -> Tensor:
    """The sine."""
    out = _by_numpy("sin", np.sin, a)
    return record(out, _sin_backward, (a,), (a._data,), (a,)) if recording(a) else wrap(out)


def _sin_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    with np.errstate(all="ignore"):
        return (kernels.mul(dy, np.asarray(np.cos(node.saved[0]))),)


def cos(a: Tensor) -> Tensor:
    """The cosine."""
    out = _by_numpy("cos", np.cos, a)
    return record(out, _cos_backward, (a,), (a._data,), (a,)) if recording(a) else wrap(out)


def _cos_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    with np.errstate(all="ignore"):
        return (np.asarray(np.negative(kernels.mul(dy, np.asarray(np.sin(node.saved[0]))))),)


def square(a: Tensor) -> Tensor:
    """a * a."""
    return a * a


def reciprocal(a: Tensor) -> Tensor:
    """1 / a."""
    return 1.0 / a


def rsqrt(a: Tensor) -> Tensor:
    """1 / sqrt(a)."""
    return 1.0 / sqrt(a)
