"""Losses: prediction and target to one number, or one per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from .._core import DTypeError, ShapeError
from ..autograd import Node, Value, record, recording, wrap
from .arithmetic import div, mul
from .common import Array, as_array, is_float, operands, tensor_of
from .reduction import mean, sum

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy",
    "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "mse_loss", "nll_loss",
    "smooth_l1_loss",
]  # fmt: skip

_REDUCTIONS = ("none", "mean", "sum")


def _check_reduction(op: str, reduction: str, allowed: tuple[str, ...] = _REDUCTIONS) -> None:
    if reduction not in allowed:
        raise ValueError(f"{op}: reduction must be one of {allowed}, got {reduction!r}")


def _pair(
    op: str,
    kernel: Callable[..., Array],
    with_grad: Callable[..., tuple[Array, Array]],
    input: Tensor,
    target: Tensor,
    reduction: str,
    symmetric: bool = False,
    **options: Any,
) -> Tensor:
    """A loss of pairs of elements; where it is symmetric the target may want a gradient too."""
    x, y = operands(op, input, target)
    xa, ya = x._data, y._data
    if xa.shape != ya.shape:
        raise ShapeError(
            f"{op}: input and target must have the same shape, got {xa.shape} and {ya.shape}; "
            "reshape one of them (target.reshape(input.shape), input.squeeze(1))"
        )
    if not is_float(xa):
        raise DTypeError(f"{op}: float tensors are expected, got {xa.dtype}; call .float()")
    if reduction == "mean" and xa.size == 0:
        raise ShapeError(f"{op}: at least one element is expected, got shape {xa.shape}")
    if not symmetric and recording(y):
        raise ValueError(f"{op}: the target must not require a gradient; pass target.detach()")
    if recording(x, y):
        loss, gradient = with_grad(xa, ya, reduction=reduction, **options)
        backward = _symmetric_backward if symmetric else _pair_backward
        return record(as_array(loss), backward, (x, y) if symmetric else (x,), (gradient,))
    return wrap(as_array(kernel(xa, ya, reduction=reduction, **options)))


def _pair_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (_scaled(node.saved[0], dy),)


def _symmetric_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    wants_x, wants_y = node.inputs
    dx = _scaled(node.saved[0], dy)
    return None if wants_x is None else dx, None if wants_y is None else kernels.neg(dx)


def _scaled(gradient: Array, dy: Array) -> Array:
    """The gradient that a loss computed on the way forward, times that of what became of it."""
    if not dy.ndim and dy == 1:
        return gradient.view()  # a view: nobody may take it for his own
    scaled: Array = kernels.mul(gradient, dy)
    return scaled


def _factor(factor: Tensor | Array | None) -> Array | None:
    """A weight as an array; it takes part in no gradient."""
    if factor is None:
        return None
    return factor._data if isinstance(factor, Value) else np.asarray(factor)


def _weighted(
    op: str, losses: Tensor, weight: Tensor | Array, reduction: str, divided_by: str
) -> Tensor:
    """Losses of elements times their weights; the mean is over the "weight" or the "count"."""
    factors = tensor_of(op, weight if isinstance(weight, Value) else wrap(np.asarray(weight)))
    if factors._data.shape != losses._data.shape:
        raise ShapeError(
            f"{op}: weight must have the shape of the input, got {factors._data.shape} and "
            f"{losses._data.shape}"
        )
    weighted = mul(losses, factors)
    if reduction == "none":
        return weighted
    if reduction == "mean" and divided_by == "count":
        return mean(weighted)
    total = sum(weighted)
    return div(total, sum(factors)) if reduction == "mean" else total


def mse_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    weight: Tensor | Array | None = None,
) -> Tensor:
    """(input - target)**2, averaged, summed or as it is; the shapes must be equal.

    The weight, a factor of each element, is what the mean divides by.
    """
    _check_reduction("mse_loss", reduction)
    forward, both = kernels.mse_loss, kernels.mse_loss_with_grad
    if weight is not None:
        losses = _pair("mse_loss", forward, both, input, target, "none", True)
        return _weighted("mse_loss", losses, weight, reduction, "weight")
    return _pair("mse_loss", forward, both, input, target, reduction, True)


def l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    weight: Tensor | Array | None = None,
) -> Tensor:
    """|input - target|, averaged, summed or as it is; the shapes must be equal.

    The weight, a factor of each element, is what the mean divides by.
    """
    _check_reduction("l1_loss", reduction)
    forward, both = kernels.l1_loss, kernels.l1_loss_with_grad
    if weight is not None:
        losses = _pair("l1_loss", forward, both, input, target, "none", True)
        return _weighted("l1_loss", losses, weight, reduction, "weight")
    return _pair("l1_loss", forward, both, input, target, reduction, True)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | Array | None = None,
) -> Tensor:
    """d**2 / 2 for d = |input - target| up to delta, delta * (d - delta / 2) beyond.

    The weight is a factor of each element; the mean divides by their number, as PyTorch's does.
    """
    _check_reduction("huber_loss", reduction)
    if not delta > 0:
        raise ValueError(f"huber_loss: delta must be above 0, got {delta}")
    forward, both = kernels.huber_loss, kernels.huber_loss_with_grad
    if weight is not None:
        losses = _pair("huber_loss", forward, both, input, target, "none", True, delta=delta)
        return _weighted("huber_loss", losses, weight, reduction, "count")
    return _pair("huber_loss", forward, both, input, target, reduction, True, delta=delta)


def smooth_l1_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0
) -> Tensor:
    """d**2 / (2 beta) for d = |input - target| below beta, d - beta / 2 beyond."""
    _check_reduction("smooth_l1_loss", reduction)
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: beta must be at least 0, got {beta}")
    forward, both = kernels.smooth_l1_loss, kernels.smooth_l1_loss_with_grad
    return _pair("smooth_l1_loss", forward, both, input, target, reduction, True, beta=beta)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | Array | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-(target log(input) + (1 - target) log(1 - input)) for probabilities.

    Better numbers come from `binary_cross_entropy_with_logits`. The weight broadcasts to the shape
    of the input. The logarithms are held above -100.
    """
    op = "binary_cross_entropy"
    _check_reduction(op, reduction)
    data = tensor_of(op, input)._data
    if data.size and not (data.min() >= 0 and data.max() <= 1):
        raise ValueError(
            f"{op}: the input must lie in [0, 1], got {data.min()} to {data.max()}; pass logits to "
            "binary_cross_entropy_with_logits"
        )
    forward, both = kernels.binary_cross_entropy, kernels.binary_cross_entropy_with_grad
    return _pair(op, forward, both, input, target, reduction, weight=_factor(weight))


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | Array | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | Array | None = None,
) -> Tensor:
    """The binary cross entropy of sigmoid(input), exact for large inputs.

    Args:
        input: logits.
        target: probabilities of 1, in the shape of the input.
        weight: a factor of each loss; broadcasts to the shape of the input.
        reduction: "mean", "sum" or "none".
        pos_weight: a factor of the positive part of the loss; broadcasts likewise.
    """
    op = "binary_cross_entropy_with_logits"
    _check_reduction(op, reduction)
    forward = kernels.binary_cross_entropy_with_logits
    both = kernels.binary_cross_entropy_with_logits_with_grad
    factors: dict[str, Any] = {"weight": _factor(weight), "pos_weight": _factor(pos_weight)}
    return _pair(op, forward, both, input, target, reduction, **factors)


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """input where the target is 1, max(0, margin - input) where it is -1."""
    op = "hinge_embedding_loss"
    _check_reduction(op, reduction)
    forward, both = kernels.hinge_embedding_loss, kernels.hinge_embedding_loss_with_grad
    return _pair(op, forward, both, input, target, reduction, margin=margin)


def kl_div(
    input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False
) -> Tensor:
    """target (log(target) - input) for log-probabilities; "batchmean" is the divergence itself."""
    _check_reduction("kl_div", reduction, (*_REDUCTIONS, "batchmean"))
    forward, both = kernels.kl_div, kernels.kl_div_with_grad
    return _pair("kl_div", forward, both, input, target, reduction, log_target=log_target)


# ---- rows and labels ------------------------------------------------------------------------


def cross_entropy(
    input: Tensor,
    target: Tensor | Array,
    weight: Tensor | Array | None = None,
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
    labels = _labels("cross_entropy", target)
    options = {
        "weight": _factor(weight),
        "reduction": reduction,
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
    }
    if recording(x):
        loss, gradient = kernels.cross_entropy_with_grad(x._data, labels, **options)
        return record(as_array(loss), _rows_backward, (x,), (gradient,))
    return wrap(as_array(kernels.cross_entropy(x._data, labels, **options)))


def nll_loss(
    input: Tensor,
    target: Tensor | Array,
    weight: Tensor | Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-weight[target] * input[target]: log-probabilities (n, classes) or (n, classes, ...)."""
    _check_reduction("nll_loss", reduction)
    x = tensor_of("nll_loss", input)
    labels = _labels("nll_loss", target)
    options = {"weight": _factor(weight), "reduction": reduction, "ignore_index": ignore_index}
    if recording(x):
        loss, gradient = kernels.nll_loss_with_grad(x._data, labels, **options)
        return record(as_array(loss), _rows_backward, (x,), (gradient,))
    return wrap(as_array(kernels.nll_loss(x._data, labels, **options)))


def _labels(op: str, target: Tensor | Array) -> Array:
    if isinstance(target, Value):
        if recording(target):
            raise ValueError(f"{op}: the target must not require a gradient; pass target.detach()")
        labels = target._data
    else:
        labels = np.asarray(target)
    small = labels.dtype.kind in "iu" and labels.dtype not in (np.int64, np.int32)
    return labels.astype(np.int64) if small else labels


def _rows_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    gradient = node.saved[0]
    if dy.ndim:
        dy = np.expand_dims(dy, min(1, gradient.ndim - 1))
    return (_scaled(gradient, dy),)
