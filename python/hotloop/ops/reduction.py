"""Sums, means, extrema and softmax over any axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import kernels
from .._core import DTypeError, ShapeError
from ..autograd import Node, record, recording, wrap
from .common import Array, Axes, as_array, axes_of, axis_of, is_float

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "all", "amax", "amin", "any", "argmax", "argmin", "cumsum", "log_softmax", "logsumexp", "max",
    "mean", "min", "norm", "prod", "softmax", "std", "std_mean", "sum", "var", "var_mean",
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
        out = as_array(kernels.sum(data, axis=axes, keepdims=keepdim))
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
    out = as_array(kernels.mean(data, axis=axes, keepdims=keepdim))
    if recording(a):
        return record(out, _mean_backward, (a,), (data.shape, axes))
    return wrap(out)


def _mean_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    shape, axes = node.saved
    count = math.prod(shape[axis] for axis in axes)
    scaled = kernels.div(dy, count) if count else dy
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
            out = as_array(kernels.max(data) if op == "max" else kernels.min(data))
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
    if is_float(data):
        found = kernels.argmax if op.endswith("max") else kernels.argmin
        return as_array(found(data, axis, keepdims=keepdim))
    if op.endswith("max"):
        return np.asarray(np.argmax(data, axis=axis, keepdims=keepdim))
    return np.asarray(np.argmin(data, axis=axis, keepdims=keepdim))


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


def amax(a: Tensor, dim: Axes = (), keepdim: bool = False) -> Tensor:
    """The maximum over dim (an int, several, or all); equal maxima share the gradient evenly."""
    return _extreme("amax", a, dim, keepdim)


def amin(a: Tensor, dim: Axes = (), keepdim: bool = False) -> Tensor:
    """The minimum over dim (an int, several, or all); equal minima share the gradient evenly."""
    return _extreme("amin", a, dim, keepdim)


def _extreme(op: str, a: Tensor, dim: Axes, keepdim: bool) -> Tensor:
    data = a._data
    axes = axes_of(op, dim, data.ndim)
    if math.prod(data.shape[axis] for axis in axes) == 0:
        raise ShapeError(f"{op}: at least one element is expected, got shape {data.shape}")
    if not is_float(data):
        return wrap(np.asarray((np.max if op == "amax" else np.min)(data, axes, keepdims=keepdim)))
    out = (kernels.max if op == "amax" else kernels.min)(data, axes, keepdims=keepdim)
    if recording(a):
        return record(out, _extreme_backward, (a,), (data, out, axes), (a,), guard_output=True)
    return wrap(out)


def _extreme_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    data, out, axes = node.saved
    hit = kernels.eq(data, _spread(out, data.shape, axes))
    share = np.asarray(dy / np.count_nonzero(hit, axis=axes).reshape(dy.shape)).astype(dy.dtype)
    return (kernels.where(hit, _spread(share, data.shape, axes), 0),)


def prod(a: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The product of all elements or along dim; bool and small ints give int64."""
    data = a._data
    axis = None if dim is None else axis_of("prod", dim, data.ndim)
    if not data.ndim:
        axis = None
    if is_float(data):
        out = kernels.prod(data, axis, keepdims=keepdim)
    else:
        out = np.asarray(np.prod(data, axis=axis, keepdims=keepdim, dtype=np.int64))
    if recording(a):
        return record(out, _prod_backward, (a,), (data, axis), (a,))
    return wrap(out)


def _prod_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    """Each element's gradient is the product of the others: from the left times from the right,
    which needs no division and so survives zeros."""
    data, axis = node.saved
    lines = data.reshape(-1) if axis is None else np.moveaxis(data, axis, -1)
    one = np.ones((*lines.shape[:-1], 1), lines.dtype)
    left = np.cumprod(np.concatenate([one, lines[..., :-1]], -1), -1)
    right = np.cumprod(np.concatenate([one, lines[..., :0:-1]], -1), -1)[..., ::-1]
    lines = left * right * dy.reshape((*lines.shape[:-1], 1))
    return (lines.reshape(data.shape) if axis is None else np.moveaxis(lines, -1, axis),)


def _correction(dim: Axes, unbiased: bool, correction: float | None) -> tuple[Axes, float]:
    """dim and the correction, also of var(unbiased)."""
    every = dim is True or dim is False
    if every:
        unbiased = bool(dim)
    return None if every else dim, float(unbiased) if correction is None else float(correction)


def var(
    a: Tensor,
    dim: Axes = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The variance over dim: squared distances from the mean, divided by n - correction.

    correction is 1, or 0 without unbiased; var(False) is that of all elements.
    """
    dim, less = _correction(dim, unbiased, correction)
    data = a._data
    if not is_float(data):
        raise DTypeError(f"var: a float tensor is expected, got {data.dtype}; call .float() first")
    axes = axes_of("var", dim, data.ndim)
    out = kernels.var(data, axes, correction=less, keepdims=keepdim)
    if recording(a):
        return record(out, _var_backward, (a,), (data, axes, less), (a,))
    return wrap(out)


def _var_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    data, axes, less = node.saved
    count = math.prod(data.shape[axis] for axis in axes)
    freedom = count - less if count > less else 0.0
    scale = kernels.mul(dy, 2.0 / freedom if freedom else math.inf)
    apart = kernels.sub(data, kernels.mean(data, axes, keepdims=True))
    return (kernels.mul(apart, _spread(scale, data.shape, axes), out=apart),)


def std(
    a: Tensor,
    dim: Axes = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The square root of `var`; its gradient is 0 where it is 0."""
    dim, less = _correction(dim, unbiased, correction)
    data = a._data
    if not is_float(data):
        raise DTypeError(f"std: a float tensor is expected, got {data.dtype}; call .float() first")
    axes = axes_of("std", dim, data.ndim)
    out = kernels.std(data, axes, correction=less, keepdims=keepdim)
    if recording(a):
        return record(out, _std_backward, (a,), (data, axes, less, out), (a,), guard_output=True)
    return wrap(out)


def _std_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    data, axes, less, out = node.saved
    count = math.prod(data.shape[axis] for axis in axes)
    freedom = count - less if count > less else 0.0
    scale = kernels.div(dy, kernels.mul(out, freedom))
    scale = kernels.where(kernels.eq(out, 0), 0, scale)
    apart = kernels.sub(data, kernels.mean(data, axes, keepdims=True))
    return (kernels.mul(apart, _spread(scale, data.shape, axes), out=apart),)


def var_mean(
    a: Tensor, dim: Axes = None, *, correction: float = 1, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """`var` and `mean`."""
    return var(a, dim, keepdim=keepdim, correction=correction), mean(a, dim, keepdim)


def std_mean(
    a: Tensor, dim: Axes = None, *, correction: float = 1, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """`std` and `mean`."""
    return std(a, dim, keepdim=keepdim, correction=correction), mean(a, dim, keepdim)


def norm(a: Tensor, p: float | str = "fro", dim: Axes = None, keepdim: bool = False) -> Tensor:
    """The p-norm over dim, all elements as one vector; "fro" is 2. Its gradient at 0 is 0."""
    data = a._data
    if not is_float(data):
        raise DTypeError(f"norm: a float tensor is expected, got {data.dtype}; call .float() first")
    if isinstance(p, str):
        if p != "fro":
            raise ValueError(f'norm: p must be a number or "fro", got {p!r}')
        p = 2.0
    axes = axes_of("norm", dim, data.ndim)
    out = kernels.norm(data, axes, ord=p, keepdims=keepdim)
    if recording(a):
        return record(out, _norm_backward, (a,), (data, out, axes, p), (a,), guard_output=True)
    return wrap(out)


def _norm_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    """sign(x) |x|**(p-1) / norm**(p-1); for the extremes those that are it share the gradient."""
    data, out, axes, p = node.saved
    if p == 0:
        return (np.zeros_like(data),)
    sign = kernels.sign(data)
    if math.isinf(p):
        hit = kernels.eq(kernels.abs(data), _spread(out, data.shape, axes))
        share = np.asarray(dy / np.count_nonzero(hit, axis=axes).reshape(dy.shape))
        spread = _spread(share.astype(dy.dtype), data.shape, axes)
        return (kernels.mul(sign, kernels.where(hit, spread, 0)),)
    scale = dy if p == 1 else kernels.div(dy, kernels.pow(out, p - 1))
    scale = _spread(kernels.where(kernels.eq(out, 0), 0, scale), data.shape, axes)
    if p == 2:
        return (kernels.mul(data, scale),)
    if p != 1:
        size = kernels.abs(data)
        slope = kernels.mul(sign, kernels.pow(size, p - 1))
        sign = kernels.where(kernels.eq(size, 0), 0, slope) if p < 1 else slope
    return (kernels.mul(sign, scale),)


def logsumexp(a: Tensor, dim: Axes, keepdim: bool = False) -> Tensor:
    """log(sum(exp(a))) over dim (an int or several), without overflow."""
    data = a._data
    if not is_float(data):
        raise DTypeError(
            f"logsumexp: a float tensor is expected, got {data.dtype}; call .float() first"
        )
    axes = axes_of("logsumexp", dim, data.ndim)
    out = kernels.logsumexp(data, axes, keepdims=keepdim)
    if recording(a):
        return record(out, _logsumexp_backward, (a,), (data, out, axes), (a,), guard_output=True)
    return wrap(out)


def _logsumexp_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    data, out, axes = node.saved
    share = kernels.sub(data, _spread(out, data.shape, axes))
    kernels.exp(share, out=share)
    return (kernels.mul(share, _spread(dy, data.shape, axes), out=share),)


def cumsum(a: Tensor, dim: int) -> Tensor:
    """The running sum along dim; bool and small ints give int64."""
    data = a._data
    axis = axis_of("cumsum", dim, data.ndim)
    if not is_float(data):
        return wrap(np.cumsum(data, axis if data.ndim else None, np.int64).reshape(data.shape))
    out = kernels.cumsum(data, axis)
    return record(out, _cumsum_backward, (a,), (axis,)) if recording(a) else wrap(out)


def _cumsum_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    axis = node.saved[0]
    if not dy.ndim:
        return (dy,)
    backward = kernels.cumsum(np.flip(dy, axis), axis)
    return (np.ascontiguousarray(np.flip(backward, axis)),)


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
