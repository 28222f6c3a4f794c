"""Sums, means and extremes over any axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from hotloop import _core

__all__ = ["max", "mean", "min", "sum"]

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
