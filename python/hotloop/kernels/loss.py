"""Losses, alone and together with their gradients."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt

from hotloop import _core

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_grad", "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_with_grad", "cross_entropy", "cross_entropy_with_grad",
    "hinge_embedding_loss", "hinge_embedding_loss_with_grad", "huber_loss", "huber_loss_with_grad",
    "kl_div", "kl_div_with_grad", "l1_loss", "l1_loss_with_grad", "mse_loss", "mse_loss_with_grad",
    "nll_loss", "nll_loss_with_grad", "smooth_l1_loss", "smooth_l1_loss_with_grad",
]  # fmt: skip

Reduction = Literal["mean", "sum", "none"]


def cross_entropy(
    logits: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    weight: npt.NDArray[Any] | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> npt.NDArray[Any]:
    """The cross entropy of each row of logits with its label: log(sum(exp(x))) - x[label].

    In general ``sum(t * (log(sum(exp(x))) - x))``, where t is the row's target: 1 at the label, or
    the given probabilities; mixed with 1 / classes by `label_smoothing`; times `weight`.

    Args:
        logits: float32 or float64 of shape (rows, classes), (rows, classes, ...) or (classes,),
            any strides.
        labels: int64 or int32, the shape of the logits without their class axis; or probabilities
            of the logits' shape and dtype.
        weight: a factor for each class, of the logits' dtype.
        reduction: "mean" over the rows that are not ignored (NaN when all are), weighted by the
            weights of their labels; "sum" or "none".
        ignore_index: rows with this label give no loss.
        label_smoothing: the share of probability spread over all classes, in [0, 1].

    Returns:
        The loss: 0-d, or for "none" an array of the rows' shape.

    Raises:
        ValueError: a label outside [0, classes), with its position; an unknown reduction.
        ShapeError: labels or weight of another shape; a mean over no rows.
        DTypeError: logits that are no floats, labels that are no integers; dtypes that differ.

    Source: torch.nn.functional.cross_entropy.
    """
    return _core.cross_entropy(logits, labels, weight, reduction, ignore_index, label_smoothing)


def cross_entropy_with_grad(
    logits: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    weight: npt.NDArray[Any] | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The cross entropy and its gradient in one pass: dlogits = (softmax(x) - onehot) * scale.

    In general ``(sum(t) * softmax(x) - t) * scale`` with t as in `cross_entropy`; ``scale`` is what
    the mean divides by, inverted, and 1 otherwise; ignored rows get zeros.

    Args:
        logits, labels, weight, reduction, ignore_index, label_smoothing: as in `cross_entropy`.
        out: where dlogits goes; the logits' dtype and shape, any strides; may be the logits.

    Returns:
        (loss, dlogits); the loss is 0-d, or for "none" an array of the rows' shape.

    Raises:
        ValueError, ShapeError, DTypeError: as `cross_entropy`.
        OutputError: out is read-only or overlaps the logits without being them.
    """
    return _core.cross_entropy_with_grad(
        logits, labels, weight, reduction, ignore_index, label_smoothing, out
    )


def nll_loss(
    log_probs: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    weight: npt.NDArray[Any] | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
) -> npt.NDArray[Any]:
    """-weight[label] * x[label] of each row of log-probabilities.

    Arguments, result and errors are those of `cross_entropy`, without its log_softmax.

    Source: torch.nn.functional.nll_loss.
    """
    return _core.nll_loss(log_probs, labels, weight, reduction, ignore_index)


def nll_loss_with_grad(
    log_probs: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    *,
    weight: npt.NDArray[Any] | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`nll_loss` and its gradient: -weight[label] * scale at the label, 0 elsewhere.

    Arguments, result and errors are those of `cross_entropy_with_grad`.
    """
    return _core.nll_loss_with_grad(log_probs, labels, weight, reduction, ignore_index, out)


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
    return _core.pair_loss("mse_loss", x, target, None, None, 0.0, False, reduction, False, None)


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
    return _core.pair_loss("mse_loss", x, target, None, None, 0.0, False, reduction, True, out)


def l1_loss(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    reduction: Reduction = "mean",
) -> npt.NDArray[Any]:
    """The absolute error |x - target|.

    Its slope at 0 is 0. Other arguments, result and errors are those of `mse_loss`.

    Source: torch.nn.functional.l1_loss.
    """
    return _core.pair_loss("l1_loss", x, target, None, None, 0.0, False, reduction, False, None)


def l1_loss_with_grad(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    reduction: Reduction = "mean",
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`l1_loss` and its gradient by x: sign(x - target), times scale.

    Arguments, result and errors are those of `l1_loss` and `mse_loss_with_grad`.
    """
    return _core.pair_loss("l1_loss", x, target, None, None, 0.0, False, reduction, True, out)


def huber_loss(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    delta: float = 1.0,
    reduction: Reduction = "mean",
) -> npt.NDArray[Any]:
    """d**2 / 2 for d = |x - target| up to `delta`, delta * (d - delta / 2) beyond.

    `delta` must be above 0. Other arguments, result and errors are those of `mse_loss`.

    Source: torch.nn.functional.huber_loss.
    """
    return _core.pair_loss(
        "huber_loss", x, target, None, None, delta, False, reduction, False, None
    )


def huber_loss_with_grad(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    delta: float = 1.0,
    reduction: Reduction = "mean",
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`huber_loss` and its gradient by x: x - target, held within [-delta, delta], times scale.

    Arguments, result and errors are those of `huber_loss` and `mse_loss_with_grad`.
    """
    return _core.pair_loss("huber_loss", x, target, None, None, delta, False, reduction, True, out)


def smooth_l1_loss(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    beta: float = 1.0,
    reduction: Reduction = "mean",
) -> npt.NDArray[Any]:
    """d**2 / (2 * beta) for d = |x - target| below `beta`, d - beta / 2 beyond.

    With `beta` 0 it is the `l1_loss`. Other arguments, result and errors are those of `mse_loss`.

    Source: torch.nn.functional.smooth_l1_loss.
    """
    return _core.pair_loss(
        "smooth_l1_loss", x, target, None, None, beta, False, reduction, False, None
    )


def smooth_l1_loss_with_grad(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    beta: float = 1.0,
    reduction: Reduction = "mean",
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`smooth_l1_loss` and its gradient by x: (x - target) / beta within [-1, 1], times scale.

    Arguments, result and errors are those of `smooth_l1_loss` and `mse_loss_with_grad`.
    """
    return _core.pair_loss(
        "smooth_l1_loss", x, target, None, None, beta, False, reduction, True, out
    )


def binary_cross_entropy(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    weight: npt.NDArray[Any] | None = None,
    reduction: Reduction = "mean",
) -> npt.NDArray[Any]:
    """-(target * log(x) + (1 - target) * log(1 - x)) for probabilities x.

    Logarithms are held above -100. `weight` is a factor that broadcasts to the shape of x;
    probabilities outside [0, 1] give NaN. Other arguments, result and errors are those of
    `mse_loss`.

    Source: torch.nn.functional.binary_cross_entropy.
    """
    return _core.pair_loss(
        "binary_cross_entropy", x, target, weight, None, 0.0, False, reduction, False, None
    )


def binary_cross_entropy_with_grad(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    weight: npt.NDArray[Any] | None = None,
    reduction: Reduction = "mean",
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`binary_cross_entropy` and its gradient by x: (x - target) / (x * (1 - x)), times scale.

    Arguments, result and errors are those of `binary_cross_entropy` and `mse_loss_with_grad`.
    """
    return _core.pair_loss(
        "binary_cross_entropy", x, target, weight, None, 0.0, False, reduction, True, out
    )


def binary_cross_entropy_with_logits(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    weight: npt.NDArray[Any] | None = None,
    pos_weight: npt.NDArray[Any] | None = None,
    reduction: Reduction = "mean",
) -> npt.NDArray[Any]:
    """The `binary_cross_entropy` of sigmoid(x), exact for large |x|.

    `weight` is a factor of each loss and `pos_weight` of its positive part (target * log ...); both
    broadcast to the shape of x. Other arguments, result and errors are those of `mse_loss`.

    Source: torch.nn.functional.binary_cross_entropy_with_logits.
    """
    return _core.pair_loss(
        "binary_cross_entropy_with_logits",
        x,
        target,
        weight,
        pos_weight,
        0.0,
        False,
        reduction,
        False,
        None,
    )


def binary_cross_entropy_with_logits_with_grad(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    weight: npt.NDArray[Any] | None = None,
    pos_weight: npt.NDArray[Any] | None = None,
    reduction: Reduction = "mean",
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`binary_cross_entropy_with_logits` and its gradient by x: sigmoid(x) - target, times scale.

    Arguments, result and errors are those of `binary_cross_entropy_with_logits` and
    `mse_loss_with_grad`.
    """
    return _core.pair_loss(
        "binary_cross_entropy_with_logits",
        x,
        target,
        weight,
        pos_weight,
        0.0,
        False,
        reduction,
        True,
        out,
    )


def hinge_embedding_loss(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    margin: float = 1.0,
    reduction: Reduction = "mean",
) -> npt.NDArray[Any]:
    """x where the target is 1, max(0, margin - x) where it is -1.

    Other arguments, result and errors are those of `mse_loss`.

    Source: torch.nn.functional.hinge_embedding_loss.
    """
    return _core.pair_loss(
        "hinge_embedding_loss", x, target, None, None, margin, False, reduction, False, None
    )


def hinge_embedding_loss_with_grad(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    margin: float = 1.0,
    reduction: Reduction = "mean",
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`hinge_embedding_loss` and its gradient by x: 1 or -1 or 0, times scale.

    Arguments, result and errors are those of `hinge_embedding_loss` and `mse_loss_with_grad`.
    """
    return _core.pair_loss(
        "hinge_embedding_loss", x, target, None, None, margin, False, reduction, True, out
    )


def kl_div(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    log_target: bool = False,
    reduction: Reduction | Literal["batchmean"] = "mean",
) -> npt.NDArray[Any]:
    """target * (log(target) - x) for log-probabilities x, 0 where the target is.

    With `log_target` the target is a logarithm too. The reduction "batchmean" divides the sum by
    the length of the first axis. Other arguments, result and errors are those of `mse_loss`.

    Source: torch.nn.functional.kl_div.
    """
    return _core.pair_loss("kl_div", x, target, None, None, 0.0, log_target, reduction, False, None)


def kl_div_with_grad(
    x: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    log_target: bool = False,
    reduction: Reduction | Literal["batchmean"] = "mean",
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`kl_div` and its gradient by x: -target, times scale.

    Arguments, result and errors are those of `kl_div` and `mse_loss_with_grad`.
    """
    return _core.pair_loss("kl_div", x, target, None, None, 0.0, log_target, reduction, True, out)
