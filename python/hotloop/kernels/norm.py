"""Normalization: over a batch, over the channels of a sample, over rows; forward and backward.

Mean and variance are taken in two passes over chunks of fixed size, which are combined in their
order in float64: the bits do not depend on the threads, and a mean far from zero costs no accuracy
(unlike E[x**2] - mean**2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy.typing as npt

from hotloop import _core

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
]

Array = npt.NDArray[Any]
Layout = Literal["NCHW", "NHWC"]


def batch_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: str | None = None,
    layout: Layout = "NCHW",
    return_stats: bool = False,
    out: Array | None = None,
) -> Any:
    """y = f((x - mean) / sqrt(var + eps) * weight + bias + residual), for each channel.

    Training takes mean and (biased) variance over samples and positions, and moves the running
    ones, if given, in place: running = (1 - momentum) * running + momentum * found, the variance
    unbiased. Otherwise the running ones are the statistics. Ioffe and Szegedy, arXiv 1502.03167.

    Args:
        x: float32 or float64, (n, c, ...) under NCHW, (n, ..., c) under NHWC. Channels-last and
            channels-first memory are walked as they are; other strides are packed first.
        weight: (c,), or None for ones.
        bias: (c,), or None for zeros.
        running_mean: (c,), or None.
        running_var: (c,), or None; both or neither.
        training: whose statistics count.
        momentum: the share of the new statistics in the running ones.
        eps: added to the variance.
        residual: added before the activation; x's shape.
        activation: a name of ``hotloop.kernels``' activations ("relu", ...), or None.
        layout: where the channels are among the axes.
        return_stats: also return what `batch_norm_backward` needs.
        out: the destination, x's dtype and shape; may be x or residual. Other memory orders than
            x's go through scratch.

    Returns:
        y in x's memory order, or (y, mean, rstd) with mean and rstd = 1 / sqrt(var + eps) of (c,).

    Raises:
        ShapeError: fewer than 2 axes, arrays that do not fit, or one value per channel (training).
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out or a running array is read-only, or out overlaps an input without being it.
        ValueError: one running array without the other, none in eval mode; an unknown layout or
            activation; eps below 0.
    """
    return _core.batch_norm(
        x, weight, bias, running_mean, running_var, training, momentum, eps, residual, activation,
        layout, return_stats, out,
    )  # fmt: skip


def batch_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    rstd: Array,
    *,
    training: bool = True,
    activation: Literal["relu"] | None = None,
    bias: Array | None = None,
    layout: Layout = "NCHW",
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `batch_norm` without residual; with activation None or "relu".

    With x^ = (x - mean) * rstd: dweight = sum(dy * x^), dbias = sum(dy), dx = weight * rstd *
    (dy - mean(dy) - x^ * mean(dy * x^)), or weight * rstd * dy where the statistics were constants.

    Args:
        dy: gradient of the result; x's dtype and shape, fastest in x's memory order.
        x: what the forward kernel was given.
        weight: likewise, (c,) or None.
        mean: (c,), from ``batch_norm(..., return_stats=True)``.
        rstd: likewise.
        training: whether the statistics were x's own.
        activation: what the forward kernel was given: "relu" (on the CPU) lets dy pass unless
            y <= 0, which is found by x: y is not needed.
        bias: likewise; only "relu" asks for it.
        layout: where the channels are among the axes.
        out: where dx goes; may be dy or x.

    Returns:
        (dx, dweight, dbias), also where weight is None.

    Raises:
        ShapeError: arrays that do not fit together.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input without being it.
        ValueError: another activation.
    """
    result: tuple[Array, Array, Array] = _core.batch_norm_backward(
        dy, x, weight, mean, rstd, training, activation, bias, layout, out
    )
    return result


def instance_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: str | None = None,
    layout: Layout = "NCHW",
    return_stats: bool = False,
    out: Array | None = None,
) -> Any:
    """Like `batch_norm` in training, each sample with statistics of its own.

    Running statistics, if given, move towards the mean over the samples of their means and unbiased
    variances. (With the running ones as statistics instance norm is `batch_norm`.) Ulyanov et al.,
    arXiv 1607.08022.

    Args:
        x: float32 or float64, (n, c, ...) under NCHW, (n, ..., c) under NHWC.
        weight: (c,), or None for ones.
        bias: (c,), or None for zeros.
        running_mean: (c,), or None.
        running_var: (c,), or None; both or neither.
        momentum: the share of the new statistics in the running ones.
        eps: added to the variance.
        residual: added before the activation; x's shape.
        activation: a name of ``hotloop.kernels``' activations, or None.
        layout: where the channels are among the axes.
        return_stats: also return what `instance_norm_backward` needs.
        out: the destination, x's dtype and shape; may be x or residual.

    Returns:
        y in x's memory order, or (y, mean, rstd) with mean and rstd of (n, c).

    Raises:
        ShapeError: fewer than 2 axes, arrays that do not fit, or one position per channel.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out or a running array is read-only, or out overlaps an input without being it.
        ValueError: one running array without the other; an unknown layout or activation.
    """
    return _core.instance_norm(
        x, weight, bias, running_mean, running_var, momentum, eps, residual, activation, layout,
        return_stats, out,
    )  # fmt: skip


def instance_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    rstd: Array,
    *,
    layout: Layout = "NCHW",
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `instance_norm`: those of `batch_norm_backward`, sample by sample.

    Args:
        dy: gradient of the result; x's dtype and shape.
        x: what the forward kernel was given.
        weight: likewise, (c,) or None.
        mean: (n, c), from ``instance_norm(..., return_stats=True)``.
        rstd: likewise.
        layout: where the channels are among the axes.
        out: where dx goes; may be dy or x.

    Returns:
        (dx, dweight, dbias), also where weight is None.

    Raises:
        ShapeError: arrays that do not fit together.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input without being it.
    """
    result: tuple[Array, Array, Array] = _core.instance_norm_backward(
        dy, x, weight, mean, rstd, layout, out
    )
    return result


def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: str | None = None,
    layout: Layout = "NCHW",
    return_stats: bool = False,
    out: Array | None = None,
) -> Any:
    """Like `instance_norm`, neighbouring channels sharing statistics in num_groups groups.

    Wu and He, arXiv 1803.08494.

    Args:
        x: float32 or float64, (n, c, ...) under NCHW, (n, ..., c) under NHWC.
        num_groups: how many groups of c / num_groups channels.
        weight: (c,), or None for ones.
        bias: (c,), or None for zeros.
        eps: added to the variance.
        residual: added before the activation; x's shape.
        activation: a name of ``hotloop.kernels``' activations, or None.
        layout: where the channels are among the axes.
        return_stats: also return what `group_norm_backward` needs.
        out: the destination, x's dtype and shape; may be x or residual.

    Returns:
        y in x's memory order, or (y, mean, rstd) with mean and rstd of (n, num_groups).

    Raises:
        ShapeError: fewer than 2 axes, arrays that do not fit, num_groups that does not divide c.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input without being it.
        ValueError: an unknown layout or activation.
    """
    return _core.group_norm(
        x, num_groups, weight, bias, eps, residual, activation, layout, return_stats, out
    )


def group_norm_backward(
    dy: Array,
    x: Array,
    num_groups: int,
    weight: Array | None,
    mean: Array,
    rstd: Array,
    *,
    layout: Layout = "NCHW",
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `group_norm`.

    With x^ = (x - mean) * rstd and g = weight * dy: dx = rstd * (g - mean(g) - x^ * mean(g * x^)),
    means over a group; dweight = sum(dy * x^), dbias = sum(dy).

    Args:
        dy: gradient of the result; x's dtype and shape.
        x: what the forward kernel was given.
        num_groups: likewise.
        weight: likewise, (c,) or None.
        mean: (n, num_groups), from ``group_norm(..., return_stats=True)``.
        rstd: likewise.
        layout: where the channels are among the axes.
        out: where dx goes; may be dy or x.

    Returns:
        (dx, dweight, dbias), also where weight is None.

    Raises:
        ShapeError: arrays that do not fit together.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input without being it.
    """
    result: tuple[Array, Array, Array] = _core.group_norm_backward(
        dy, x, num_groups, weight, mean, rstd, layout, out
    )
    return result


def layer_norm(
    x: Array,
    normalized_shape: Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
    residual: Array | None = None,
    activation: str | None = None,
    return_stats: bool = False,
    out: Array | None = None,
) -> Any:
    """y = f((h - mean) / sqrt(var + eps) * weight + bias) over the last axes, h = x + residual.

    Mean and (biased) variance are those of each row, the axes of normalized_shape. Ba et al., arXiv
    1607.06450.

    Args:
        x: float32 or float64; dense rows at one distance, other strides are packed first.
        normalized_shape: the sizes of the last axes, which make a row.
        weight: of normalized_shape, or None for ones.
        bias: likewise, or None for zeros.
        eps: added to the variance.
        residual: added first; x's shape. The sum h is a result too.
        activation: a name of ``hotloop.kernels``' activations, or None.
        return_stats: also return what `layer_norm_backward` needs.
        out: the destination, x's dtype and shape; may be x or residual. Other strides than C order
            go through scratch.

    Returns:
        y; with residual (y, h); with return_stats followed by mean and rstd = 1 / sqrt(var + eps),
        of x's shape without the last axes.

    Raises:
        ShapeError: normalized_shape that x does not end with, arrays that do not fit.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input without being it.
        ValueError: an unknown activation; eps below 0.
    """
    return _core.layer_norm(
        x, normalized_shape, weight, bias, eps, residual, activation, return_stats, out
    )


def layer_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    rstd: Array,
    *,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `layer_norm` without activation.

    With x^ = (x - mean) * rstd and g = weight * dy: dx = rstd * (g - mean(g) - x^ * mean(g * x^)),
    means over a row; dweight = sum(dy * x^), dbias = sum(dy) over the rows.

    Args:
        dy: gradient of the result; x's dtype and shape.
        x: what was normalized: h where there was a residual.
        weight: what the forward kernel was given, or None.
        mean: from ``layer_norm(..., return_stats=True)``; the axes that it lacks are the row.
        rstd: likewise.
        out: where dx goes; may be dy or x.

    Returns:
        (dx, dweight, dbias), also where weight is None; dx is the residual's gradient too.

    Raises:
        ShapeError: arrays that do not fit together.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input without being it.
    """
    result: tuple[Array, Array, Array] = _core.layer_norm_backward(dy, x, weight, mean, rstd, out)
    return result


def rms_norm(
    x: Array,
    normalized_shape: Sequence[int],
    weight: Array | None = None,
    *,
    eps: float | None = None,
    residual: Array | None = None,
    activation: str | None = None,
    return_stats: bool = False,
    out: Array | None = None,
) -> Any:
    """y = f(h / sqrt(mean(h**2) + eps) * weight) over the last axes, h = x + residual.

    Zhang and Sennrich, arXiv 1910.07467.

    Args:
        x: float32 or float64; dense rows at one distance, other strides are packed first.
        normalized_shape: the sizes of the last axes, which make a row.
        weight: of normalized_shape, or None for ones.
        eps: added to the mean of squares; None: the dtype's machine epsilon.
        residual: added first; x's shape. The sum h is a result too.
        activation: a name of ``hotloop.kernels``' activations, or None.
        return_stats: also return what `rms_norm_backward` needs.
        out: the destination, x's dtype and shape; may be x or residual.

    Returns:
        y; with residual (y, h); with return_stats followed by rstd = 1 / sqrt(mean(h**2) + eps), of
        x's shape without the last axes.

    Raises:
        ShapeError: normalized_shape that x does not end with, arrays that do not fit.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input without being it.
        ValueError: an unknown activation; eps below 0.
    """
    return _core.rms_norm(x, normalized_shape, weight, eps, residual, activation, return_stats, out)


def rms_norm_backward(
    dy: Array, x: Array, weight: Array | None, rstd: Array, *, out: Array | None = None
) -> tuple[Array, Array]:
    """The gradients of `rms_norm` without activation.

    With x^ = x * rstd and g = weight * dy: dx = rstd * (g - x^ * mean(g * x^)), the mean over a
    row; dweight = sum(dy * x^) over the rows.

    Args:
        dy: gradient of the result; x's dtype and shape.
        x: what was normalized: h where there was a residual.
        weight: what the forward kernel was given, or None.
        rstd: from ``rms_norm(..., return_stats=True)``; the axes that it lacks are the row.
        out: where dx goes; may be dy or x.

    Returns:
        (dx, dweight), also where weight is None; dx is the residual's gradient too.

    Raises:
        ShapeError: arrays that do not fit together.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input without being it.
    """
    result: tuple[Array, Array] = _core.rms_norm_backward(dy, x, weight, rstd, out)
    return result
