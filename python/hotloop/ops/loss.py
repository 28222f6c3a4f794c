"""Losses: prediction and target to one number, or one per sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import kernels
from .._core import DTypeError, ShapeError
from ..autograd import Node, Value, record, recording, wrap
from .common import Array, is_float, operands, tensor_of
from .reduction import log_softmax
from .shape import movedim, reshape

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["cross_entropy", "mse_loss"]

_REDUCTIONS = ("none", "mean", "sum")


def _check_reduction(op: str, reduction: str) -> None:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{op}: reduction must be one of {_REDUCTIONS}, got {reduction!r}")


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(input - target)**2, averaged, summed or as it is; the shapes must be equal."""
    _check_reduction("mse_loss", reduction)
    x, y = operands("mse_loss", input, target)
    xa, ya = x._data, y._data
    if xa.shape != ya.shape:
        raise ShapeError(
            f"mse_loss: input and target must have the same shape, got {xa.shape} and {ya.shape}; "
            "reshape one of them (target.reshape(input.shape), input.squeeze(1))"
        )
    if not is_float(xa):
        raise DTypeError(f"mse_loss: float tensors are expected, got {xa.dtype}; call .float()")
    if reduction == "mean" and xa.size == 0:
        raise ShapeError(f"mse_loss: at least one element is expected, got shape {xa.shape}")
    if recording(x, y):
        loss, gradient = kernels.mse_loss_with_grad(xa, ya, reduction=reduction)
        return record(np.asarray(loss), _mse_backward, (x, y), (gradient,))
    return wrap(np.asarray(kernels.mse_loss(xa, ya, reduction=reduction)))


def _mse_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    wants_x, wants_y = node.inputs
    dx = _scaled(node.saved[0], dy)
    return None if wants_x is None else dx, None if wants_y is None else kernels.neg(dx)


def _scaled(gradient: Array, dy: Array) -> Array:
    """The gradient that a loss computed on the way forward, times that of what became of it."""
    if not dy.ndim and dy == 1:
        return gradient.view()  # a view: nobody may take it for his own
    scaled: Array = kernels.mul(gradient, dy)
    return scaled


def cross_entropy(
    input: Tensor,
    target: Tensor | Array,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log(softmax(input))[target]: logits (n, classes) or (n, classes, ...), labels (n, ...).

    Args:
        input: the logits, not their softmax.
        target: integer labels, or probabilities in the shape of the logits.
        weight: a factor for each class; the mean is then weighted too.
        ignore_index: a label that contributes nothing.
        reduction: "mean", "sum" or "none".
        label_smoothing: the share of probability spread over all classes.
    """
    _check_reduction("cross_entropy", reduction)
    x = tensor_of("cross_entropy", input)
    xa = x._data
    labels = target._data if isinstance(target, Value) else np.asarray(target)
    if xa.ndim != 2:
        return _reshaped(x, labels, weight, ignore_index, reduction, label_smoothing)
    if weight is not None or label_smoothing != 0.0 or labels.dtype.kind == "f":
        return _general(x, labels, weight, ignore_index, reduction, label_smoothing)
    if recording(x):
        loss, gradient = kernels.cross_entropy_with_grad(
            xa, labels, reduction=reduction, ignore_index=ignore_index
        )
        return record(np.asarray(loss), _cross_entropy_backward, (x,), (gradient,))
    loss = kernels.cross_entropy(xa, labels, reduction=reduction, ignore_index=ignore_index)
    return wrap(np.asarray(loss))


def _cross_entropy_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (_scaled(node.saved[0], dy[:, None] if dy.ndim else dy),)


def _reshaped(
    x: Tensor,
    labels: Array,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    """Logits of one sample (classes,), or of places (n, classes, ...)."""
    shape = x._data.shape
    if not shape:
        raise ShapeError("cross_entropy: logits must have shape (n, classes), got ()")
    axis = 1 if len(shape) > 2 else 0
    expected = shape[:axis] + shape[axis + 1 :]
    if labels.shape not in (expected, shape):
        raise ShapeError(
            f"cross_entropy: labels of shape {expected} are expected for logits of shape {shape}, "
            f"got {labels.shape}"
        )
    if labels.dtype.kind == "f":
        labels = np.moveaxis(labels, axis, -1)
    flat = reshape(movedim(x, axis, -1), (-1, shape[axis]))
    flat_labels = labels.reshape((-1, shape[axis]) if labels.dtype.kind == "f" else -1)
    loss = cross_entropy(flat, flat_labels, weight, ignore_index, reduction, label_smoothing)
    return reshape(loss, expected) if reduction == "none" else loss


def _general(
    x: Tensor,
    labels: Array,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    """By log_softmax times the target's probabilities: every option, several passes."""
    rows, classes = x._data.shape
    dtype = x._data.dtype
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}")
    factors = np.ones(classes, dtype)
    if weight is not None:
        factors = weight._data
        if factors.shape != (classes,) or factors.dtype != dtype:
            raise ShapeError(
                f"cross_entropy: weight must be {dtype} of shape {(classes,)}, got "
                f"{factors.dtype} of shape {factors.shape}"
            )
    if labels.dtype.kind == "f":
        if labels.shape != x._data.shape or labels.dtype != dtype:
            raise ShapeError(
                f"cross_entropy: probabilities must be {dtype} of the logits' shape "
                f"{x._data.shape}, got {labels.dtype} of shape {labels.shape}"
            )
        target = labels * factors if label_smoothing == 0.0 else labels
        total = float(rows)
        if label_smoothing:
            target = (labels * (1 - label_smoothing) + label_smoothing / classes) * factors
    else:
        target, total = _one_hot(labels, (rows, classes), factors, ignore_index, label_smoothing)
    loss = -(log_softmax(x, 1) * wrap(np.ascontiguousarray(target, dtype))).sum(1)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / total


def _one_hot(
    labels: Array,
    shape: tuple[int, int],
    factors: Array,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Array, float]:
    """The target's weighted probabilities, and the sum of the labels' weights."""
    rows, classes = shape
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"cross_entropy: labels must be integers, got {labels.dtype}")
    if labels.shape != (rows,):
        raise ShapeError(
            f"cross_entropy: labels of shape {(rows,)} are expected for logits of shape {shape}, "
            f"got {labels.shape}"
        )
    kept = labels != ignore_index
    wrong = kept & ((labels < 0) | (labels >= classes))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"cross_entropy: labels must be in [0, {classes - 1}], got {int(labels[row])} in row "
            f"{row}"
        )
    index = np.flatnonzero(kept)
    target = np.zeros(shape, factors.dtype)
    target[index] = factors * factors.dtype.type(label_smoothing / classes)
    target[index, labels[index]] += factors[labels[index]] * factors.dtype.type(1 - label_smoothing)
    return target, float(factors[labels[index]].sum())
