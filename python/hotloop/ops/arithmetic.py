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
    """a ** b, element by element; integers to negative powers raise, or give 0 for a tensor b."""
    if _takes_number(a, b):
        return _power_of_number(a, b)  # type: ignore[arg-type]
    if isinstance(b, float) and b.is_integer() and isinstance(a, Value) and not is_float(a._data):
        b = int(b)
    x, y = operands("pow", a, b)
    xa, ya = x._data, y._data
    if not is_float(xa):
        if not isinstance(b, Value) and (ya < 0).any():
            raise ValueError(
                f"pow: integers to negative integer powers are not allowed, got {b}; "
                "convert the tensor first (.float())"
            )
        return wrap(by_numpy("pow", _integer_power, xa, ya))
    out = kernels.pow(xa, ya)
    if recording(x, y):
        return record(out, _pow_backward, (x, y), (xa, ya, out), (x, y), guard_output=True)
    return wrap(out)


def _integer_power(x: Array, y: Array) -> Array:
    out = np.power(x, np.maximum(y, 0))
    if y.dtype.kind == "i" and (y < 0).any():  # only 1 and -1 have such powers
        inverse = np.where(x == 1, 1, np.where(x == -1, 1 - 2 * (y % 2), 0))
        out = np.where(y < 0, inverse, out).astype(x.dtype)
    return np.asarray(out)


def _power_of_number(a: Tensor, b: float) -> Tensor:
    data = a._data
    if b == 2:
        out = kernels.square(data)
    elif b == 0.5:
        out = kernels.sqrt(data)
    else:
        out = kernels.pow(data, b)
    if recording(a):
        return record(out, _power_backward, (a,), (data, b), (a,))
    return wrap(out)


def _power_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    data, b = node.saved
    if b == 0:
        return (np.zeros_like(dy),)
    if b == 2:
        return (kernels.mul(dy, kernels.mul(data, 2)),)
    return (kernels.mul(dy, kernels.mul(kernels.pow(data, b - 1), b)),)


def _pow_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    """d a**b = b * a**(b-1) da + log(a) * a**b db, with 0 where a or b is 0."""
    wants_x, wants_y = node.inputs
    xa, ya, out = node.saved
    dx = dya = None
    if wants_x is not None:
        slope = kernels.mul(ya, kernels.pow(xa, kernels.sub(ya, 1)))
        slope = kernels.where(kernels.eq(ya, 0), 0, slope)
        dx = unbroadcast(kernels.mul(dy, slope), xa.shape)
    if wants_y is not None:
        none = np.logical_and(kernels.eq(xa, 0), kernels.ge(ya, 0))
        slope = kernels.where(none, 0, kernels.mul(out, kernels.log(xa)))
        dya = unbroadcast(kernels.mul(dy, slope), ya.shape)
    return dx, dya


def abs(a: Tensor) -> Tensor:
    """The absolute value; its gradient at 0 is 0."""
    out = kernels.abs(a._data) if is_float(a._data) else np.asarray(np.abs(a._data))
    return record(out, _abs_backward, (a,), (a._data,), (a,)) if recording(a) else wrap(out)


def _abs_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (kernels.mul(dy, kernels.sign(node.saved[0])),)


def sign(a: Tensor) -> Tensor:
    """-1, 0 or 1, and 0 for NaN; its gradient is 0."""
    data = a._data
    out = kernels.sign(data) if is_float(data) else np.asarray(np.sign(data))
    return record(out, _sign_backward, (a,)) if recording(a) else wrap(out)


def _sign_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (np.zeros_like(dy),)


def maximum(a: Operand, b: Operand) -> Tensor:
    """The larger of both, NaN if either is; equal operands share the gradient in halves."""
    return _extremum("maximum", kernels.maximum, np.maximum, a, b)


def minimum(a: Operand, b: Operand) -> Tensor:
    """The smaller of both, NaN if either is; equal operands share the gradient in halves."""
    return _extremum("minimum", kernels.minimum, np.minimum, a, b)


def _extremum(
    op: str, kernel: Callable[..., Array], other: Callable[..., Any], a: Operand, b: Operand
) -> Tensor:
    x, y = operands(op, a, b)
    xa, ya = x._data, y._data
    out = kernel(xa, ya) if is_float(xa) else by_numpy(op, other, xa, ya)
    if recording(x, y):
        return record(out, _extremum_backward, (x, y), (op, xa, ya), (x, y))
    return wrap(out)


def _extremum_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    """As in PyTorch, whoever is not beaten takes the gradient, which NaN never is."""
    wants_x, wants_y = node.inputs
    op, xa, ya = node.saved
    beaten = kernels.lt if op == "maximum" else kernels.gt
    share = kernels.where(kernels.eq(xa, ya), kernels.mul(dy, 0.5), dy)
    return (
        None if wants_x is None else unbroadcast(kernels.where(beaten(xa, ya), 0, share), xa.shape),
        None if wants_y is None else unbroadcast(kernels.where(beaten(ya, xa), 0, share), ya.shape),
    )


def clamp(a: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """a limited to [min, max], numbers or tensors; the gradient passes where min <= a <= max, and
    to the bound that was taken elsewhere. Where min > max, the result is max."""
    if min is None and max is None:
        raise ValueError("clamp: at least one of min and max must be given, got neither")
    data = a._data
    low = None if min is None else operands("clamp", a, min)[1]
    high = None if max is None else operands("clamp", a, max)[1]
    bounds = tuple(bound for bound in (low, high) if bound is not None)
    limits = [None if bound is None else bound._data for bound in (low, high)]
    if not is_float(data):
        out = data if low is None else by_numpy("clamp", np.maximum, data, low._data)
        return wrap(out if high is None else by_numpy("clamp", np.minimum, out, high._data))
    if low is None:
        out = kernels.minimum(data, limits[1])
    elif high is None:
        out = kernels.maximum(data, limits[0])
    else:
        out = kernels.clip(data, *limits)
    if recording(a, *bounds):
        return record(out, _clamp_backward, (a, *bounds), (data, *limits), (a, *bounds))
    return wrap(out)


clip = clamp


def _clamp_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    data, low, high = node.saved
    below = None if low is None else kernels.lt(data, low)
    above = None if high is None else kernels.gt(data, high)
    if below is not None and above is not None:
        crossed = kernels.gt(low, high)
        taken = [np.logical_and(below, ~crossed), np.logical_or(above, crossed)]
        outside = np.logical_or(below, above)
    else:
        outside = below if above is None else above
        taken = [outside]
    gradients = [kernels.where(outside, 0, dy)] + [kernels.where(t, dy, 0) for t in taken]
    shapes = [data.shape] + [bound.shape for bound in (low, high) if bound is not None]
    return tuple(
        None if wanted is None else unbroadcast(gradient, shape)
        for wanted, gradient, shape in zip(node.inputs, gradients, shapes)
    )


def where(condition: Tensor | Array, a: Operand, b: Operand) -> Tensor:
    """a where condition holds, b elsewhere; all three broadcast."""
    mask = condition._data if isinstance(condition, Value) else np.asarray(condition)
    if mask.dtype != np.bool_:
        raise DTypeError(f"where: condition must be bool, got {mask.dtype}; compare it (x > 0)")
    x, y = operands("where", a, b)
    xa, ya = x._data, y._data
    if is_float(xa):
        out = kernels.where(mask, xa, ya)
    else:
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
    return (
        None if wants_x is None else unbroadcast(kernels.where(mask, dy, 0), x_shape),
        None if wants_y is None else unbroadcast(kernels.where(mask, 0, dy), y_shape),
    )
