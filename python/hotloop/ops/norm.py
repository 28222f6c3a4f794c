"""Normalization: batch, instance, group, layer and RMS norm."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import kernels
from ..autograd import Backward, Node, mark_written, record, recording, wrap
from .common import Array, tensor_of

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]

Sizes = int | Sequence[int]


def _array(tensor: Tensor | None) -> Array | None:
    return None if tensor is None else tensor._data


def _finish(
    out: Array,
    backward: Backward,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: tuple[Any, ...],
) -> Tensor:
    """The output, recorded where a gradient is wanted; backward finds which inputs there are."""
    inputs = (x, *(t for t in (weight, bias) if t is not None))
    if not recording(*inputs):
        return wrap(out)
    guard = (x,) if weight is None else (x, weight)
    there = (weight is not None, bias is not None)
    return record(out, backward, inputs, (x._data, _array(weight), there, *saved), guard)


def _present(there: tuple[bool, bool], grads: Sequence[Array]) -> tuple[Array | None, ...]:
    """dx, and the gradients of weight and bias where there are such."""
    dx, *affine = grads
    return (dx, *(grad for has, grad in zip(there, affine) if has))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias per channel of (n, c, ...).

    Training takes mean and variance over the batch and moves the running ones in place; otherwise
    the running ones count.
    """
    x = tensor_of("batch_norm", input)
    out, mean, rstd = kernels.batch_norm(
        x._data, _array(weight), _array(bias), _array(running_mean), _array(running_var),
        training=training, momentum=momentum, eps=eps, return_stats=True,
    )  # fmt: skip
    if training:
        _moved(running_mean, running_var)
    return _finish(out, _batch_norm_backward, x, weight, bias, (mean, rstd, training))


def batch_norm_relu(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """relu(batch_norm(...)) in one pass: the same bits."""
    y, mean, rstd = kernels.batch_norm(
        input._data, _array(weight), _array(bias), _array(running_mean), _array(running_var),
        training=training, momentum=momentum, eps=eps, activation="relu", return_stats=True,
    )  # fmt: skip
    if training:
        _moved(running_mean, running_var)
    inputs = (input, *(t for t in (weight, bias) if t is not None))
    if not recording(*inputs):
        return wrap(y)
    guard = (input,) if weight is None else (input, weight)
    there = (weight is not None, bias is not None)
    # The walk back finds by x, in the same bits, where y is 0. PyTorch lets the bias be overwritten
    # meanwhile, and its gradient is that of the old one: a copy.
    kept = None if bias is None else bias._data.copy()
    saved = (input._data, _array(weight), there, mean, rstd, training, kept)
    return record(y, _batch_norm_relu_backward, inputs, saved, guard, guard_output=True)


def _batch_norm_relu_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    xa, wa, there, mean, rstd, training, ba = node.saved
    grads = kernels.batch_norm_backward(
        dy, xa, wa, mean, rstd, training=training, activation="relu", bias=ba
    )
    return _present(there, grads)


def _moved(*running: Tensor | None) -> None:
    for tensor in running:
        if tensor is not None:
            mark_written(tensor)


def _batch_norm_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    xa, wa, there, mean, rstd, training = node.saved
    return _present(there, kernels.batch_norm_backward(dy, xa, wa, mean, rstd, training=training))


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Like `batch_norm` with statistics for each sample of (n, c, ...)."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = tensor_of("instance_norm", input)
    out, mean, rstd = kernels.instance_norm(
        x._data, _array(weight), _array(bias), _array(running_mean), _array(running_var),
        momentum=momentum, eps=eps, return_stats=True,
    )  # fmt: skip
    _moved(running_mean, running_var)
    return _finish(out, _instance_norm_backward, x, weight, bias, (mean, rstd))


def _instance_norm_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    xa, wa, there, mean, rstd = node.saved
    return _present(there, kernels.instance_norm_backward(dy, xa, wa, mean, rstd))


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Like `instance_norm` with statistics for each of num_groups groups of channels."""
    x = tensor_of("group_norm", input)
    out, mean, rstd = kernels.group_norm(
        x._data, num_groups, _array(weight), _array(bias), eps=eps, return_stats=True
    )
    return _finish(out, _group_norm_backward, x, weight, bias, (mean, rstd, num_groups))


def _group_norm_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    xa, wa, there, mean, rstd, groups = node.saved
    return _present(there, kernels.group_norm_backward(dy, xa, groups, wa, mean, rstd))


def row_shape(normalized_shape: Sizes) -> tuple[int, ...]:
    """normalized_shape as a tuple."""
    if isinstance(normalized_shape, Sequence):
        return tuple(operator.index(size) for size in normalized_shape)
    return (operator.index(normalized_shape),)


def layer_norm(
    input: Tensor,
    normalized_shape: Sizes,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes."""
    x = tensor_of("layer_norm", input)
    out, mean, rstd = kernels.layer_norm(
        x._data, row_shape(normalized_shape), _array(weight), _array(bias), eps=eps,
        return_stats=True,
    )  # fmt: skip
    return _finish(out, _layer_norm_backward, x, weight, bias, (mean, rstd))


def _layer_norm_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    xa, wa, there, mean, rstd = node.saved
    return _present(there, kernels.layer_norm_backward(dy, xa, wa, mean, rstd))


def rms_norm(
    input: Tensor,
    normalized_shape: Sizes,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """x / sqrt(mean(x**2) + eps) * weight over the last axes; eps None: the dtype's epsilon."""
    x = tensor_of("rms_norm", input)
    out, rstd = kernels.rms_norm(
        x._data, row_shape(normalized_shape), _array(weight), eps=eps, return_stats=True
    )
    return _finish(out, _rms_norm_backward, x, weight, None, (rstd,))


def _rms_norm_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    xa, wa, there, rstd = node.saved
    return _present(there, kernels.rms_norm_backward(dy, xa, wa, rstd))
