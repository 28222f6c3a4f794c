"""Arithmetic with NumPy broadcasting, comparisons and selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from .._core import DTypeError
from ..autograd import Node, Value, record, recording, wrap
from .common import (
    Array,
    Operand,
    Scalar,
    broadcast_error,
    constant,
    is_float,
    operands,
    unbroadcast,
)

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "abs", "add", "clamp", "clip", "div", "maximum", "minimum", "mul", "neg", "pow", "sign", "sub",
    "where",
]  # fmt: skip


def by_numpy(op: str, function: Callable[..., Any], x: Array, y: Array) -> Array:
    """A NumPy function of two arrays, with our error where they do not broadcast."""
    try:
        return np.asarray(function(x, y))
    except ValueError:
        raise broadcast_error(op, x, y) from None


# Float tensors meet Python numbers so often that they have a short way: kernels take the number as
# it is. Exact types only, for bool is an int, and NumPy's float64 a float.
_NUMBERS = (float, int)


def _with_number(a: Tensor, function: Callable[..., Array], b: Scalar, slope: Scalar) -> Tensor:
    """function(a, b), whose derivative by a is `slope`."""
    try:
        out = function(a._data, b)
    except OverflowError:
        raise DTypeError(f"{function.__name__}: {b} does not fit {a._data.dtype}") from None
    if recording(a):
        return record(out, _scale_backward, (a,), (slope,))
    return wrap(out)


def _scale_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    slope = node.saved[0]
    return (dy if slope == 1 else kernels.mul(dy, slope),)


def _takes_number(a: Operand, b: Operand) -> bool:
    return type(b) in _NUMBERS and isinstance(a, Value) and a._data.dtype.kind == "f"


def add(a: Operand, b: Operand) -> Tensor:
    """a + b, element by element."""
    if _takes_number(a, b):
        return _with_number(a, kernels.add, b, 1)  # type: ignore[arg-type]
    x, y = operands("add", a, b)
    xa, ya = x._data, y._data
    out = kernels.add(xa, ya) if is_float(xa) else by_numpy("add", np.add, xa, ya)
    if recording(x, y):
        return record(out, _add_backward, (x, y), (xa.shape, ya.shape))
    return wrap(out)


def _add_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    wants_x, wants_y = node.inputs
    x_shape, y_shape = node.saved
    return (
        None if wants_x is None else unbroadcast(dy, x_shape),
        None if wants_y is None else unbroadcast(dy, y_shape),
    )


def sub(a: Operand, b: Operand) -> Tensor:
    """a - b, element by element."""
    if _takes_number(a, b):
        return _with_number(a, kernels.sub, b, 1)  # type: ignore[arg-type]
    x, y = operands("sub", a, b)
    xa, ya = x._data, y._data
    if xa.dtype.kind == "b":
        raise DTypeError("sub: numbers are expected, got bool; use logical_not or .float()")
    out = kernels.sub(xa, ya) if is_float(xa) else by_numpy("sub", np.subtract, xa, ya)
    if recording(x, y):
        return record(out, _sub_backward, (x, y), (xa.shape, ya.shape))
    return wrap(out)


def _sub_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    wants_x, wants_y = node.inputs
    x_shape, y_shape = node.saved
    return (
        None if wants_x is None else unbroadcast(dy, x_shape),
        None if wants_y is None else kernels.neg(unbroadcast(dy, y_shape)),
    )


def mul(a: Operand, b: Operand) -> Tensor:
    """a * b, element by element."""
    if _takes_number(a, b):
        return _with_number(a, kernels.mul, b, b)  # type: ignore[arg-type]
    x, y = operands("mul", a, b)
    xa, ya = x._data, y._data
    out = kernels.mul(xa, ya) if is_float(xa) else by_numpy("mul", np.multiply, xa, ya)
    if recording(x, y):
        shapes = (xa.shape, ya.shape)
        if not y._needs:
            return record(out, _mul_backward, (x, y), (None, ya, *shapes), (y,))
        if not x._needs:
            return record(out, _mul_backward, (x, y), (xa, None, *shapes), (x,))
        return record(out, _mul_backward, (x, y), (xa, ya, *shapes), (x, y))
    return wrap(out)


def _mul_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    wants_x, wants_y = node.inputs
    xa, ya, x_shape, y_shape = node.saved
    return (
        None if wants_x is None else unbroadcast(kernels.mul(dy, ya), x_shape),
        None if wants_y is None else unbroadcast(kernels.mul(dy, xa), y_shape),
    )


def div(a: Operand, b: Operand) -> Tensor:
    """a / b, element by element; integers give float32."""
    if _takes_number(a, b) and b != 0:
        return _with_number(a, kernels.div, b, 1.0 / b)  # type: ignore[arg-type]
    if not (isinstance(a, float) or isinstance(b, float)):
        x, y = operands("div", a, b)
    else:  # int tensor / float: the result is float32 anyway
        x, y = operands("div", _as_float(a), _as_float(b))
    xa, ya = x._data, y._data
    if not is_float(xa):
        xa, ya = xa.astype(np.float32), ya.astype(np.float32)
    out = kernels.div(xa, ya)
    if recording(x, y):
        kept = out if y._needs else None
        saved = (ya, kept, xa.shape)
        return record(out, _div_backward, (x, y), saved, (y,), guard_output=y._needs)
    return wrap(out)


def _div_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    wants_x, wants_y = node.inputs
    ya, out, x_shape = node.saved
    dx = kernels.div(dy, ya)
    dya = None if wants_y is None else kernels.neg(kernels.mul(dx, out))
    return (
        None if wants_x is None else unbroadcast(dx, x_shape),
        None if dya is None else unbroadcast(dya, ya.shape),
    )


def _as_float(value: Operand) -> Operand:
    if isinstance(value, Value) and not is_float(value._data):
        return wrap(value._data.astype(np.float32))
    return value


def neg(a: Tensor) -> Tensor:
    """-a."""
    out = kernels.neg(a._data) if is_float(a._data) else np.asarray(np.negative(a._data))
    return record(out, _neg_backward, (a,)) if recording(a) else wrap(out)


def _neg_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (kernels.neg(dy),)


def pow(a: Operand, b: Operand) -> Tensor:
    """a ** b, element by element."""
    if isinstance(b, float) and b.is_integer() and isinstance(a, Value) and not is_float(a._data):
        b = int(b)
    x, y = operands("pow", a, b)
    xa, ya = x._data, y._data
    with np.errstate(all="ignore"):
        out = by_numpy("pow", np.power, xa, ya)
    if recording(x, y):
        return record(out, _pow_backward, (x, y), (xa, ya, out), (x, y), guard_output=True)
    return wrap(out)


def _pow_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    """d a**b = b * a**(b-1) da + log(a) * a**b db, with 0 where a or b is 0."""
    wants_x, wants_y = node.inputs
    xa, ya, out = node.saved
    dx = dya = None
    one = np.array(1, xa.dtype)
    with np.errstate(all="ignore"):
        if wants_x is not None:
            slope = np.where(ya == 0, 0 * one, ya * np.power(xa, ya - one))
            dx = unbroadcast(np.asarray(dy * slope), xa.shape)
        if wants_y is not None:
            slope = np.where((xa == 0) & (ya >= 0), 0 * one, out * np.log(xa))
            dya = unbroadcast(np.asarray(dy * slope), ya.shape)
    return dx, dya


def abs(a: Tensor) -> Tensor:
    """The absolute value; its gradient at 0 is 0."""
    out = np.asarray(np.abs(a._data))
    return record(out, _abs_backward, (a,), (a._data,), (a,)) if recording(a) else wrap(out)


def _abs_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (np.asarray(dy * np.sign(node.saved[0])),)


def sign(a: Tensor) -> Tensor:
    """-1, 0 or 1; without gradient."""
    return wrap(np.asarray(np.sign(a._data)))


def maximum(a: Operand, b: Operand) -> Tensor:
    """The larger of both, NaN if either is; equal operands share the gradient in halves."""
    return _extremum("maximum", np.maximum, a, b)


def minimum(a: Operand, b: Operand) -> Tensor:
    """The smaller of both, NaN if either is; equal operands share the gradient in halves."""
    return _extremum("minimum", np.minimum, a, b)


def _extremum(op: str, function: Callable[..., Any], a: Operand, b: Operand) -> Tensor:
    x, y = operands(op, a, b)
    xa, ya = x._data, y._data
    out = by_numpy(op, function, xa, ya)
    if recording(x, y):
        return record(out, _extremum_backward, (x, y), (xa, ya, out), (x, y), guard_output=True)
    return wrap(out)


def _extremum_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    xa, ya, out = node.saved
    from_x, from_y = xa == out, ya == out
    half = np.where(from_x & from_y, dy * dy.dtype.type(0.5), dy)
    zero = dy.dtype.type(0)
    return (
        unbroadcast(np.where(from_x, half, zero), xa.shape),
        unbroadcast(np.where(from_y, half, zero), ya.shape),
    )


def clamp(a: Tensor, min: Scalar | None = None, max: Scalar | None = None) -> Tensor:
    """a limited to [min, max]; the gradient passes where min <= a <= max."""
    if min is None and max is None:
        raise ValueError("clamp: at least one of min and max must be given, got neither")
    data = a._data
    low = None if min is None else constant("clamp", min, data.dtype)._data
    high = None if max is None else constant("clamp", max, data.dtype)._data
    out = data if low is None else np.maximum(data, low)
    out = np.asarray(out if high is None else np.minimum(out, high))
    if recording(a):
        inside = np.ones(data.shape, bool)
        if low is not None:
            inside &= data >= low
        if high is not None:
            inside &= data <= high
        return record(out, _masked_backward, (a,), (inside,))
    return wrap(out)


clip = clamp


def _masked_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (np.where(node.saved[0], dy, dy.dtype.type(0)),)


def where(condition: Tensor | Array, a: Operand, b: Operand) -> Tensor:
    """a where condition holds, b elsewhere; all three broadcast."""
    mask = condition._data if isinstance(condition, Value) else np.asarray(condition)
    if mask.dtype != np.bool_:
        raise DTypeError(f"where: condition must be bool, got {mask.dtype}; compare it (x > 0)")
    x, y = operands("where", a, b)
    xa, ya = x._data, y._data
    try:
        out = np.where(mask, xa, ya)
    except ValueError:
        raise broadcast_error("where", mask, xa, ya) from None
    if recording(x, y):
        return record(out, _where_backward, (x, y), (mask, xa.shape, ya.shape))
    return wrap(out)


def _where_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    wants_x, wants_y = node.inputs
    mask, x_shape, y_shape = node.saved
    zero = dy.dtype.type(0)
    return (
        None if wants_x is None else unbroadcast(np.where(mask, dy, zero), x_shape),
        None if wants_y is None else unbroadcast(np.where(mask, zero, dy), y_shape),
    )
