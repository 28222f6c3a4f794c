"""Sums, means, extrema and softmax over any axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import kernels
from .._core import DTypeError, ShapeError
from ..autograd import Node, record, recording, wrap
from .common import Array, Axes, axes_of, axis_of, is_float

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "all", "any", "argmax", "argmin", "log_softmax", "max", "mean", "min", "norm", "prod",
    "softmax", "std", "sum", "var",
]  # fmt: skip


class ValuesIndices(NamedTuple):
    """What max and min over one dim return."""

    values: Tensor
    indices: Tensor


def _spread(dy: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """dy, the gradient of a reduction over axes, seen with the shape that was reduced."""
    kept = tuple(1 if i in axes else size for i, size in enumerate(shape))
    return np.broadcast_to(dy.reshape(kept), shape)


def sum(a: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The sum over dim (an int, several, or None for all); bool and small ints give int64."""
    data = a._data
    axes = axes_of("sum", dim, data.ndim)
    if is_float(data):
        out = np.asarray(kernels.sum(data, axis=axes, keepdims=keepdim))
    else:
        out = np.asarray(np.sum(data, axis=axes, keepdims=keepdim, dtype=np.int64))
    if recording(a):
        return record(out, _sum_backward, (a,), (data.shape, axes))
    return wrap(out)


def _sum_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    shape, axes = node.saved
    return (_spread(dy, shape, axes),)


def mean(a: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The mean over dim (an int, several, or None for all)."""
    data = a._data
    if not is_float(data):
        raise DTypeError(f"mean: a float tensor is expected, got {data.dtype}; call .float() first")
    axes = axes_of("mean", dim, data.ndim)
    out = np.asarray(kernels.mean(data, axis=axes, keepdims=keepdim))
    if recording(a):
        return record(out, _mean_backward, (a,), (data.shape, axes))
    return wrap(out)


def _mean_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    shape, axes = node.saved
    count = math.prod(shape[axis] for axis in axes)
    scaled = np.asarray(dy / dy.dtype.type(count)) if count else dy
    return (_spread(scaled, shape, axes),)


def max(a: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The maximum: of all elements, or (values, indices) along dim.

    Without dim, equal maxima share the gradient evenly; with dim, the first one takes it.
    """
    return _extremum("max", a, dim, keepdim)


def min(a: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The minimum: of all elements, or (values, indices) along dim; gradients as for max."""
    return _extremum("min", a, dim, keepdim)


def _extremum(op: str, a: Tensor, dim: int | None, keepdim: bool) -> Any:
    data = a._data
    if dim is None:
        if data.size == 0:
            raise ShapeError(f"{op}: at least one element is expected, got shape {data.shape}")
        if is_float(data):
            out = np.asarray(kernels.max(data) if op == "max" else kernels.min(data))
        else:
            out = np.asarray(data.max() if op == "max" else data.min())
        if recording(a):
            return record(out, _extremum_backward, (a,), (data, out), (a,), guard_output=True)
        return wrap(out)
    index = _arg(op, a, dim, True)
    axis = axis_of(op, dim, data.ndim)
    out = np.take_along_axis(data, index, axis) if data.ndim else data.copy()
    if not keepdim and data.ndim:
        out = out.squeeze(axis)
    values = wrap(out)
    if recording(a):
        values = record(out, _take_backward, (a,), (data.shape, index, axis))
    return ValuesIndices(values, wrap(index if keepdim or not data.ndim else index.squeeze(axis)))


def _extremum_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    data, out = node.saved
    hit = (data == out) | (np.isnan(data) & np.isnan(out))
    share = dy / dy.dtype.type(np.count_nonzero(hit))
    return (np.where(hit, share, dy.dtype.type(0)),)


def _take_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    shape, index, axis = node.saved
    dx = np.zeros(shape, dy.dtype)
    if shape:
        np.put_along_axis(dx, index, dy.reshape(index.shape), axis)
    else:
        dx[...] = dy
    return (dx,)


def _arg(op: str, a: Tensor, dim: int | None, keepdim: bool) -> Array:
    data = a._data
    axis = None if dim is None else axis_of(op, dim, data.ndim)
    if (data.size if axis is None or not data.ndim else data.shape[axis]) == 0:
        raise ShapeError(f"{op}: at least one element is expected, got shape {data.shape}")
    if not data.ndim:
        axis = None
    if op.endswith("max"):
        return np.asarray(np.argmax(data, axis=axis, keepdims=keepdim and axis is not None))
    return np.asarray(np.argmin(data, axis=axis, keepdims=keepdim and axis is not None))


def argmax(a: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index (int64) of the first maximum, in the flattened tensor or along dim."""
    return wrap(_arg("argmax", a, dim, keepdim))


def argmin(a: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index (int64) of the first minimum, in the flattened tensor or along dim."""
    return wrap(_arg("argmin", a, dim, keepdim))


def all(a: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """Whether all elements over dim are true (not 0)."""
    return wrap(np.asarray(np.all(a._data, axis=axes_of("all", dim, a.ndim), keepdims=keepdim)))


def any(a: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """Whether an element over dim is true (not 0)."""
    return wrap(np.asarray(np.any(a._data, axis=axes_of("any", dim, a.ndim), keepdims=keepdim)))


def prod(a: Tensor) -> Tensor:
    """The product of all elements."""
    data = a._data
    out = np.asarray(np.prod(data))
    if recording(a):
        return record(out, _prod_backward, (a,), (data,), (a,))
    return wrap(out)


def _prod_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    """Each element's gradient is the product of the others: from the left times from the right,
    which needs no division and so survives zeros."""
    data = node.saved[0]
    flat = data.reshape(-1)
    one = np.ones(1, flat.dtype)
    left = np.cumprod(np.concatenate([one, flat[:-1]]))
    right = np.cumprod(np.concatenate([one, flat[:0:-1]]))[::-1]
    return ((left * right * dy).reshape(data.shape),)


def var(a: Tensor, dim: Axes = None, keepdim: bool = False, correction: int = 1) -> Tensor:
    """The variance over dim: squared distances from the mean, divided by n - correction."""
    axes = axes_of("var", dim, a.ndim)
    count = math.prod(a.shape[axis] for axis in axes)
    centred = a - mean(a, axes, keepdim=True)
    scale = 1.0 / (count - correction) if count > correction else float("nan")
    return sum(centred * centred, axes, keepdim) * scale


def std(a: Tensor, dim: Axes = None, keepdim: bool = False, correction: int = 1) -> Tensor:
    """The square root of `var`."""
    return var(a, dim, keepdim, correction).sqrt()


def norm(a: Tensor, dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The Euclidean norm over dim; its gradient at 0 is 0."""
    data = a._data
    if not is_float(data):
        raise DTypeError(f"norm: a float tensor is expected, got {data.dtype}; call .float() first")
    axes = axes_of("norm", dim, data.ndim)
    out = np.sqrt(np.asarray(kernels.sum(kernels.mul(data, data), axis=axes, keepdims=keepdim)))
    out = np.asarray(out)
    if recording(a):
        return record(out, _norm_backward, (a,), (data, out, axes), (a,), guard_output=True)
    return wrap(out)


def _norm_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    data, out, axes = node.saved
    zero = out == 0
    scale = np.where(zero, 0, dy / np.where(zero, 1, out)).astype(dy.dtype)
    return (np.asarray(data * _spread(scale, data.shape, axes)),)


def softmax(a: Tensor, dim: int) -> Tensor:
    """exp(a) / sum(exp(a)) along dim."""
    axis = axis_of("softmax", dim, a._data.ndim)
    out = kernels.softmax(a._data, axis=axis)
    if recording(a):
        return record(out, _softmax_backward, (a,), (out, axis), guard_output=True)
    return wrap(out)


def _softmax_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    y, axis = node.saved
    return (kernels.softmax_backward(dy, y, axis=axis),)


def log_softmax(a: Tensor, dim: int) -> Tensor:
    """log(softmax(a)) along dim, without overflow."""
    axis = axis_of("log_softmax", dim, a._data.ndim)
    out = kernels.log_softmax(a._data, axis=axis)
    if recording(a):
        return record(out, _log_softmax_backward, (a,), (out, axis), guard_output=True)
    return wrap(out)


def _log_softmax_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    y, axis = node.saved
    return (kernels.log_softmax_backward(dy, y, axis=axis),)
