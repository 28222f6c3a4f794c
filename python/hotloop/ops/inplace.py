"""Operations that change their tensor: the names that end in _.

They are not recorded. So they are refused, outside of no_grad, where a gradient would have to pass:
on a leaf with requires_grad, on a result of recorded operations, or with such an operand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from .._core import DTypeError, ShapeError
from ..autograd import Value, is_grad_enabled, mark_written, wrap
from ..device_array import beside
from . import arithmetic
from .common import Array, Operand, Scalar, constant, is_float
from .shape import plain_index

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "add_", "bernoulli_", "clamp_", "copy_", "detach_", "div_", "fill_", "iadd", "imul", "isub",
    "itruediv", "mul_", "neg_", "normal_", "setitem", "sub_", "uniform_", "zero_",
]  # fmt: skip


def _check(op: str, a: Tensor, other: Any = None) -> None:
    if is_grad_enabled() and (a._needs or (isinstance(other, Value) and other._needs)):
        raise RuntimeError(
            f"{op}: a change in place is not recorded, so the tensors must not require grad; put "
            "it under `with hl.no_grad():`, or use the form that gives a new tensor"
        )
    if not a._data.flags.writeable:
        raise RuntimeError(f"{op}: the tensor's array must be writable, it is read-only; clone()")


def _operand(op: str, a: Tensor, other: Operand) -> Array:
    """other as an array of a's dtype that broadcasts to a's shape."""
    value = other if isinstance(other, Value) else constant(op, other, a._data.dtype)
    data = value._data
    if data.dtype != a._data.dtype:
        raise DTypeError(
            f"{op}: both operands must have the same dtype, got {a._data.dtype} and {data.dtype}; "
            "convert the second (.to(dtype))"
        )
    try:
        return np.broadcast_to(data, a._data.shape)
    except ValueError:
        raise ShapeError(
            f"{op}: the operand must broadcast to the tensor's shape {a._data.shape}, "
            f"got {data.shape}"
        ) from None


def _apply(op: str, function: Callable[..., Any], a: Tensor, other: Operand) -> Tensor:
    _check(op, a, other)
    if type(other) in (int, float) and is_float(a._data):  # no array that might overlap
        _KERNELS[function](a._data, other, out=a._data)
        mark_written(a)
        return a
    if a.is_cuda:
        _KERNELS[function](a._data, _operand(op, a, other), out=a._data)
        mark_written(a)
        return a
    with np.errstate(all="ignore"):
        function(a._data, _operand(op, a, other), out=a._data)
    mark_written(a)
    return a


_KERNELS: dict[Any, Callable[..., Array]] = {
    np.add: kernels.add, np.subtract: kernels.sub, np.multiply: kernels.mul,
    np.divide: kernels.div, np.maximum: kernels.maximum, np.minimum: kernels.minimum,
}  # fmt: skip


def add_(a: Tensor, other: Operand, alpha: Scalar = 1) -> Tensor:
    """a += alpha * other."""
    if alpha != 1:
        _check("add_", a, other)
        data = _operand("add_", a, other)
        factor = constant("add_", alpha, data.dtype)._data
        other = wrap(kernels.mul(data, float(factor))) if a.is_cuda else data * factor
    return _apply("add_", np.add, a, other)


def sub_(a: Tensor, other: Operand, alpha: Scalar = 1) -> Tensor:
    """a -= alpha * other."""
    if alpha != 1:
        return add_(a, other, -alpha)
    return _apply("sub_", np.subtract, a, other)


def mul_(a: Tensor, other: Operand) -> Tensor:
    """a *= other."""
    return _apply("mul_", np.multiply, a, other)


def div_(a: Tensor, other: Operand) -> Tensor:
    """a /= other, for float tensors."""
    if not is_float(a._data):
        raise DTypeError(f"div_: a float tensor is expected, got {a._data.dtype}; call .float()")
    return _apply("div_", np.divide, a, other)


def neg_(a: Tensor) -> Tensor:
    """a = -a."""
    return mul_(a, -1)


def clamp_(a: Tensor, min: Scalar | None = None, max: Scalar | None = None) -> Tensor:
    """Limits a to [min, max]."""
    if min is not None:
        _apply("clamp_", np.maximum, a, min)
    return a if max is None else _apply("clamp_", np.minimum, a, max)


def copy_(a: Tensor, source: Tensor | Array) -> Tensor:
    """Takes source's elements, broadcast and converted to a's dtype."""
    _check("copy_", a, source)
    data = source._data if isinstance(source, Value) else np.asarray(source)
    data = beside(data, a._data)
    try:
        np.copyto(a._data, data, casting="unsafe")
    except ValueError:
        raise ShapeError(
            f"copy_: the source must broadcast to the tensor's shape {a._data.shape}, "
            f"got {data.shape}"
        ) from None
    mark_written(a)
    return a


def fill_(a: Tensor, value: Scalar) -> Tensor:
    """Sets every element to value."""
    _check("fill_", a)
    a._data.fill(constant("fill_", value, a._data.dtype)._data[()])
    mark_written(a)
    return a


def zero_(a: Tensor) -> Tensor:
    """Sets every element to 0."""
    return fill_(a, False)


def uniform_(a: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Fills with random numbers of [low, high)."""
    _check("uniform_", a)
    kernels.uniform(a._data.shape, low=low, high=high, dtype=a._data.dtype, out=a._data)
    mark_written(a)
    return a


def normal_(a: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fills with random numbers of the normal distribution."""
    _check("normal_", a)
    kernels.normal(a._data.shape, mean=mean, std=std, dtype=a._data.dtype, out=a._data)
    mark_written(a)
    return a


def bernoulli_(a: Tensor, p: float = 0.5) -> Tensor:
    """Fills with 1 with probability p, else 0."""
    _check("bernoulli_", a)
    kernels.bernoulli(a._data.shape, p, dtype=a._data.dtype, out=a._data)
    mark_written(a)
    return a


def detach_(a: Tensor) -> Tensor:
    """Forgets the way to its gradient."""
    a._node = None
    a._needs = False
    return a


def setitem(a: Tensor, index: Any, value: Operand) -> None:
    """a[index] = value."""
    _check("setitem", a, value)
    part = value if isinstance(value, Value) else constant("setitem", value, a._data.dtype)
    if part._data.dtype != a._data.dtype:
        raise DTypeError(
            f"setitem: the value must have the tensor's dtype {a._data.dtype}, "
            f"got {part._data.dtype}; convert it (.to(dtype))"
        )
    try:
        a._data[plain_index(index)] = part._data
    except ValueError as error:
        raise ShapeError(f"setitem: the value must broadcast to the place: {error}") from None
    mark_written(a)


def _augmented(
    change: Callable[[Tensor, Operand], Tensor], make: Callable[[Operand, Operand], Tensor]
) -> Callable[[Tensor, Operand], Tensor]:
    """`a += b`: a change in place, or, where it has to be recorded, a new tensor under the name.

    A leaf with requires_grad raises: its gradient would go to a tensor that the caller lost.
    """

    def augmented(a: Tensor, other: Operand) -> Tensor:
        tracked = a._needs or (isinstance(other, Value) and other._needs)
        leaf = a._needs and a._node is None
        if tracked and not leaf and is_grad_enabled():
            return make(a, other)
        return change(a, other)

    return augmented


iadd = _augmented(add_, arithmetic.add)
isub = _augmented(sub_, arithmetic.sub)
imul = _augmented(mul_, arithmetic.mul)
itruediv = _augmented(div_, arithmetic.div)
