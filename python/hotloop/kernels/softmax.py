"""softmax and log_softmax along one axis, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from hotloop import _core

__all__ = ["log_softmax", "log_softmax_backward", "softmax", "softmax_backward"]


def softmax(
    x: npt.NDArray[Any], *, axis: int = -1, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Turns scores into probabilities: exp(x - max) / sum(exp(x - max)) along the axis.

    A row that holds NaN or +inf, or nothing but -inf, becomes NaN, as in PyTorch.

    Args:
        x: float32 or float64, at least one axis, any strides.
        axis: the axis along which the result sums to 1.
        out: the destination; x's dtype and shape, any strides; may be x itself.

    Returns:
        ``out``, or a new array of x's shape.

    Raises:
        ShapeError: an axis out of range, a 0-d x, or out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x without being x.
    """
    return _core.softmax(x, axis, out)


def log_softmax(
    x: npt.NDArray[Any], *, axis: int = -1, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """The logarithm of softmax: x - max - log(sum(exp(x - max))) along the axis.

    Args:
        x: float32 or float64, at least one axis, any strides.
        axis: the axis along which exp of the result sums to 1.
        out: the destination; x's dtype and shape, any strides; may be x itself.

    Returns:
        ``out``, or a new array of x's shape.

    Raises:
        ShapeError: an axis out of range, a 0-d x, or out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x without being x.
    """
    return _core.log_softmax(x, axis, out)


def softmax_backward(
    dy: npt.NDArray[Any],
    y: npt.NDArray[Any],
    *,
    axis: int = -1,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of softmax: dx = y * (dy - sum(dy * y)) along the axis.

    Args:
        dy: gradient of the result; y's dtype and shape, any strides.
        y: what ``softmax`` returned.
        axis: the axis that ``softmax`` was given.
        out: the destination; y's dtype and shape, any strides; may be dy or y itself.

    Returns:
        dx: ``out``, or a new array of y's shape.

    Raises:
        ShapeError: dy, y and out of different shapes, or an axis out of range.
        DTypeError: dtypes that differ or are no floats.
        OutputError: out is read-only or overlaps dy or y without being it.
    """
    return _core.softmax_backward(dy, y, axis, out)


def log_softmax_backward(
    dy: npt.NDArray[Any],
    y: npt.NDArray[Any],
    *,
    axis: int = -1,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of log_softmax: dx = dy - exp(y) * sum(dy) along the axis.

    Args:
        dy: gradient of the result; y's dtype and shape, any strides.
        y: what ``log_softmax`` returned.
        axis: the axis that ``log_softmax`` was given.
        out: the destination; y's dtype and shape, any strides; may be dy or y itself.

    Returns:
        dx: ``out``, or a new array of y's shape.

    Raises:
        ShapeError: dy, y and out of different shapes, or an axis out of range.
        DTypeError: dtypes that differ or are no floats.
        OutputError: out is read-only or overlaps dy or y without being it.
    """
    return _core.log_softmax_backward(dy, y, axis, out)
