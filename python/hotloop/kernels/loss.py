"""Losses, alone and together with their gradients."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt

from hotloop import _core

__all__ = ["cross_entropy", "cross_entropy_with_grad", "mse_loss", "mse_loss_with_grad"]

Reduction = Literal["mean", "sum", "none"]


def cross_entropy(
    logits: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
) -> npt.NDArray[Any]:
    """The cross entropy of each row of logits with its label: log(sum(exp(x))) - x[label].

    Args:
        logits: float32 or float64 of shape (rows, classes), (rows, classes, ...) or (classes,),
            any strides.
        labels: int64 or int32, the shape of the logits without their class axis.
        reduction: "mean" over the rows that are not ignored (NaN when all are), "sum" or "none".
        ignore_index: rows with this label give no loss.

    Returns:
        The loss: 0-d, or for "none" an array of the labels' shape.

    Raises:
        ValueError: a label outside [0, classes), with its position; an unknown reduction.
        ShapeError: labels of another shape; a mean over no rows.
        DTypeError: logits that are no floats or labels that are no integers.
    """
    return _core.cross_entropy(logits, labels, reduction, ignore_index)


def cross_entropy_with_grad(
    logits: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The cross entropy and its gradient in one pass: dlogits = (softmax(x) - onehot) * scale.

    ``scale`` is 1 / (rows not ignored) for "mean" and 1 otherwise; ignored rows get zeros.

    Args:
        logits: float32 or float64 of shape (rows, classes), (rows, classes, ...) or (classes,),
            any strides.
        labels: int64 or int32, the shape of the logits without their class axis.
        reduction: "mean" over the rows that are not ignored (NaN when all are), "sum" or "none".
        ignore_index: rows with this label give neither loss nor gradient.
        out: where dlogits goes; the logits' dtype and shape, any strides; may be the logits.

    Returns:
        (loss, dlogits); the loss is 0-d, or for "none" an array of the labels' shape.

    Raises:
        ValueError: a label outside [0, classes), with its position; an unknown reduction.
        ShapeError: labels or out of another shape; a mean over no rows.
        DTypeError: logits that are no floats, labels that are no integers, out of another dtype.
        OutputError: out is read-only or overlaps the logits without being them.
    """
    return _core.cross_entropy_with_grad(logits, labels, reduction, ignore_index, out)


def mse_loss(
    x: npt.NDArray[Any], target: npt.NDArray[Any], *, reduction: Reduction = "mean"
) -> npt.NDArray[Any]:
    """The squared error (x - target)**2.

    Shapes must agree: nothing is broadcast, since (N, 1) against (N,) would compare every pair.

    Args:
        x: float32 or float64, any shape; strided arrays are packed first.
        target: x's dtype and shape.
        reduction: "mean" over all elements, "sum" or "none".

    Returns:
        The loss: 0-d, or for "none" an array of x's shape.

    Raises:
        ShapeError: x and target of different shapes; a mean over nothing.
        DTypeError: dtypes that differ or are no floats.
        ValueError: an unknown reduction.
    """
    return _core.mse_loss(x, target, reduction)


def mse_loss_with_grad(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    reduction: Reduction = "mean",
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The squared error and its gradient in one pass: dx = 2 * (x - target) * scale.

    ``scale`` is 1 / (number of elements) for "mean" and 1 otherwise.

    Args:
        x: float32 or float64, any shape; strided arrays are packed first.
        target: x's dtype and shape.
        reduction: "mean" over all elements, "sum" or "none".
        out: where dx goes; x's dtype and shape, other strides than C order through scratch; may be
            x or target.

    Returns:
        (loss, dx); the loss is 0-d, or for "none" an array of x's shape.

    Raises:
        ShapeError: x, target and out of different shapes; a mean over nothing.
        DTypeError: dtypes that differ or are no floats.
        OutputError: out is read-only or overlaps x or target without being it.
        ValueError: an unknown reduction.
    """
    return _core.mse_loss_with_grad(x, target, reduction, out)
