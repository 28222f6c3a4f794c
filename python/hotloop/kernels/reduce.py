"""Sums, means, extremes, variances and norms over any axes; running sums and places along one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hotloop import _core

__all__ = [
    "argmax", "argmin", "cumsum", "logsumexp", "max", "mean", "min", "norm", "prod", "std", "sum",
    "var",
]  # fmt: skip

Axis = int | Sequence[int] | None


def sum(
    x: npt.NDArray[Any],
    axis: Axis = None,
    *,
    keepdims: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Adds the elements along some axes.

    The sum is blocked and pairwise along every axis, so its error grows like the logarithm of the
    number of terms; the order depends on shape and memory layout alone, not on the threads.

    Args:
        x: float32 or float64, any shape and strides.
        axis: an axis, a tuple of axes, or None for all.
        keepdims: keep the reduced axes with size 1.
        out: the destination; same dtype, the result's shape, any strides; must not overlap x.

    Returns:
        ``out``, or a new array (0-d when every axis is reduced). The sum of nothing is 0.

    Raises:
        ShapeError: an axis out of range or named twice, or out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x.
    """
    return _core.sum(x, axis, keepdims, out)


def mean(
    x: npt.NDArray[Any],
    axis: Axis = None,
    *,
    keepdims: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Averages the elements along some axes: sum(x) / number of terms.

    Args:
        x: float32 or float64, any shape and strides.
        axis: an axis, a tuple of axes, or None for all.
        keepdims: keep the reduced axes with size 1.
        out: the destination; same dtype, the result's shape, any strides; must not overlap x.

    Returns:
        ``out``, or a new array. The mean of nothing is NaN, without a warning.

    Raises:
        ShapeError: an axis out of range or named twice, or out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x.
    """
    return _core.mean(x, axis, keepdims, out)


def max(
    x: npt.NDArray[Any],
    axis: Axis = None,
    *,
    keepdims: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The largest element along some axes; NaN where one of them is NaN.

    Args:
        x: float32 or float64, any shape and strides, with an element along the reduced axes.
        axis: an axis, a tuple of axes, or None for all.
        keepdims: keep the reduced axes with size 1.
        out: the destination; same dtype, the result's shape, any strides; must not overlap x.

    Returns:
        ``out``, or a new array.

    Raises:
        ShapeError: nothing to reduce, an axis out of range or named twice, or out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x.
    """
    return _core.max(x, axis, keepdims, out)


def min(
    x: npt.NDArray[Any],
    axis: Axis = None,
    *,
    keepdims: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The smallest element along some axes; NaN where one of them is NaN.

    Args:
        x: float32 or float64, any shape and strides, with an element along the reduced axes.
        axis: an axis, a tuple of axes, or None for all.
        keepdims: keep the reduced axes with size 1.
        out: the destination; same dtype, the result's shape, any strides; must not overlap x.

    Returns:
        ``out``, or a new array.

    Raises:
        ShapeError: nothing to reduce, an axis out of range or named twice, or out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x.
    """
    return _core.min(x, axis, keepdims, out)


def prod(
    x: npt.NDArray[Any],
    axis: Axis = None,
    *,
    keepdims: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Multiplies the elements along some axes; the product of nothing is 1.

    Arguments, result and errors as in :func:`sum`.
    """
    return _core.prod(x, axis, keepdims, out)


def logsumexp(
    x: npt.NDArray[Any],
    axis: Axis = None,
    *,
    keepdims: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """``log(sum(exp(x)))`` along some axes, without overflow; -inf for nothing.

    Arguments, result and errors as in :func:`sum`.
    """
    return _core.logsumexp(x, axis, keepdims, out)


def var(
    x: npt.NDArray[Any],
    axis: Axis = None,
    *,
    correction: float = 1,
    keepdims: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The variance along some axes: sum((x - mean(x))**2) / max(0, n - correction).

    Means and distances are formed block by block and merged (Chan, Golub and LeVeque 1979), so
    nothing cancels however large the mean is. NaN where n - correction is 0 and all are equal.

    Args:
        x: float32 or float64, any shape and strides.
        axis: an axis, a tuple of axes, or None for all.
        correction: subtracted from the number of terms; 1 as in PyTorch, 0 as in NumPy.
        keepdims: keep the reduced axes with size 1.
        out: the destination; same dtype, the result's shape, any strides; must not overlap x.

    Returns:
        ``out``, or a new array.

    Raises:
        ShapeError: an axis out of range or named twice, or out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x.
    """
    return _core.var(x, axis, correction, keepdims, out)


def std(
    x: npt.NDArray[Any],
    axis: Axis = None,
    *,
    correction: float = 1,
    keepdims: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The square root of the variance.

    Arguments, result and errors as in :func:`var`.
    """
    result = _core.var(x, axis, correction, keepdims, out)
    return _core.sqrt(result, result)


def norm(
    x: npt.NDArray[Any],
    axis: Axis = None,
    *,
    ord: float = 2,
    keepdims: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """``sum(|x|**ord) ** (1 / ord)`` along some axes, all of them as one vector.

    Args:
        x: float32 or float64, any shape and strides.
        axis: an axis, a tuple of axes, or None for all.
        ord: 2 for the Euclidean norm, 1, inf (the largest |x|), -inf (the smallest), 0 (how many
            are not 0), or any other number.
        keepdims: keep the reduced axes with size 1.
        out: the destination; same dtype, the result's shape, any strides; must not overlap x.

    Returns:
        ``out``, or a new array.

    Raises:
        ShapeError: an axis out of range or named twice, or out of another shape; nothing to reduce
            for the infinite orders.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x.
    """
    if ord == 2:
        result = _core.sum_of_squares(x, axis, keepdims, out)
        return _core.sqrt(result, result)
    if math.isinf(ord):
        return (_core.max if ord > 0 else _core.min)(_core.abs(x, None), axis, keepdims, out)
    if ord == 1:
        return _core.sum(_core.abs(x, None), axis, keepdims, out)
    if ord == 0:
        ones = _core.where(_core.ne(x, 0, None), np.ones((), x.dtype), 0, None)
        return _core.sum(ones, axis, keepdims, out)
    result = _core.sum(_core.pow(_core.abs(x, None), ord, None), axis, keepdims, out)
    return _core.pow(result, 1 / ord, result)


def argmax(
    x: npt.NDArray[Any],
    axis: int | None = None,
    *,
    keepdims: bool = False,
    out: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Where the largest element lies: the first of several, and the first NaN if there is one.

    Args:
        x: float32 or float64, any shape and strides.
        axis: an axis, or None for the place in the flattened array.
        keepdims: keep the reduced axes with size 1.
        out: the destination, of int64 and the result's shape.

    Returns:
        ``out``, or a new array of int64.

    Raises:
        ShapeError: nothing to choose from, an axis out of range, or out of another shape.
        DTypeError: x is no float array, or out is not of int64.
        OutputError: out is read-only.
    """
    return _core.argmax(x, axis, keepdims, out)


def argmin(
    x: npt.NDArray[Any],
    axis: int | None = None,
    *,
    keepdims: bool = False,
    out: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Where the smallest element lies: the first of several, and the first NaN if there is one.

    Arguments, result and errors as in :func:`argmax`.
    """
    return _core.argmin(x, axis, keepdims, out)


def cumsum(
    x: npt.NDArray[Any], axis: int = 0, *, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """The running sum along an axis; float32 is summed in float64.

    Args:
        x: float32 or float64, any shape and strides.
        axis: the axis.
        out: the destination; x's shape and dtype, any strides; may be x itself.

    Returns:
        ``out``, or a new array.

    Raises:
        ShapeError: an axis out of range, or out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or partly overlaps x.
    """
    return _core.cumsum(x, axis, out)
