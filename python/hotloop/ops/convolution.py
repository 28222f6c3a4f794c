"""Convolutions over signals, images and volumes, and their transposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from .._core import ShapeError
from ..autograd import Node, record, recording, wrap
from .common import Array, tensor_of
from .shape import squeeze, unsqueeze

if TYPE_CHECKING:
    from .._core import ConvPack
    from ..tensor import Tensor

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]

Size = int | Sequence[int]


def spread(op: str, name: str, value: Size, dims: int) -> tuple[int, ...]:
    """An int for all axes, or one for each."""
    many = (value,) * dims if isinstance(value, (int, np.integer)) else tuple(value)
    if len(many) != dims:
        wanted = {1: "an int", 2: "an int or a pair", 3: "an int or three of them"}[dims]
        raise ShapeError(f"{op}: {name} must be {wanted}, got {value}")
    return tuple(int(v) for v in many)


def same_padding(kernel: tuple[int, ...], stride: Size, dilation: Size) -> tuple[int, ...]:
    """The padding that keeps all sizes."""
    dims = len(kernel)
    op = f"conv{dims}d"
    if spread(op, "stride", stride, dims) != (1,) * dims:
        raise ValueError(f'{op}: padding="same" needs stride 1, got {stride}')
    total = [d * (k - 1) for k, d in zip(kernel, spread(op, "dilation", dilation, dims))]
    if any(t % 2 for t in total):
        raise ValueError(
            f'{op}: padding="same" needs an odd kernel_size (or an even dilation), got {kernel}; '
            "pad the input or give the padding in numbers"
        )
    return tuple(t // 2 for t in total)


def _convolve(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size | str,
    dilation: Size,
    groups: int,
) -> Tensor:
    op = f"conv{dims}d"
    x, w = tensor_of(op, input), tensor_of(op, weight)
    if x._data.ndim == dims + 1:
        whole = _convolve(dims, unsqueeze(x, 0), w, bias, stride, padding, dilation, groups)
        return squeeze(whole, 0)
    xa, wa = x._data, w._data
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f'{op}: padding must be "same", "valid" or numbers, got {padding!r}')
        size = wa.shape[2:] if wa.ndim == dims + 2 else (1,) * dims
        padding = same_padding(size, stride, dilation) if padding == "same" else 0
    ba = None if bias is None else tensor_of(op, bias)._data
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    out = _FORWARD[dims](xa, wa, ba, **options)
    if bias is None:
        if recording(x, w):
            return record(out, _convolve_backward, (x, w), (xa, wa, options), (x, w))
    elif recording(x, w, bias):
        return record(out, _convolve_backward, (x, w, bias), (xa, wa, options), (x, w))
    return wrap(out)


def convolve_packed(
    input: Tensor, pack: ConvPack, bias: Tensor | None, dims: int, options: dict[str, Any]
) -> Tensor:
    """A convolution with weights that `kernels.conv_pack` has packed; nothing is recorded."""
    ba = None if bias is None else bias._data
    return wrap(_FORWARD[dims](input._data, pack, ba, **options))


def conv2d_relu_max_pool2d(
    input: Tensor, weight: Tensor, bias: Tensor | None, options: dict[str, Any], pack: Any = None
) -> Tensor:
    """max_pool2d(relu(conv2d(input, weight, bias)), 2): one kernel, the same bits.

    Of four axes; `options` are stride, padding, dilation and groups in numbers. The backward pass
    needs one byte for each pooled element, the tap, and neither of the results in between.
    """
    xa, wa, ba = input._data, weight._data, None if bias is None else bias._data
    parts = (input, weight) if bias is None else (input, weight, bias)
    if not recording(*parts):
        return wrap(kernels.conv2d_relu_max_pool2d(xa, pack or wa, ba, **options))
    y, taps = kernels.conv2d_relu_max_pool2d(xa, wa, ba, return_indices=True, **options)
    saved = (xa, wa, taps, options)
    return record(y, _conv2d_relu_max_pool2d_backward, parts, saved, (input, weight))


def _conv2d_relu_max_pool2d_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    xa, wa, taps, options = node.saved
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, p, d, s in zip(
            xa.shape[2:],
            wa.shape[2:],
            *(spread("conv2d", name, options[name], 2) for name in ("padding", "dilation")),
            spread("conv2d", "stride", options["stride"], 2),
        )
    ]
    whole = kernels.relu_max_pool2d_backward(dy, taps, (*taps.shape[:2], *size))
    dx = dw = None
    if node.inputs[0] is not None:
        dx = kernels.conv2d_backward_input(whole, wa, xa.shape, **options)
    if node.inputs[1] is not None:
        dw = kernels.conv2d_backward_weight(whole, xa, wa.shape, **options)
    return dx, dw, *_bias_gradient(node, whole)


def _bias_gradient(node: Node, dy: Array) -> tuple[Array | None, ...]:
    if len(node.inputs) == 2:
        return ()
    axes = (0, *range(2, dy.ndim))
    return (None if node.inputs[2] is None else kernels.sum(dy, axis=axes),)


def _convolve_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    xa, wa, options = node.saved
    dims = dy.ndim - 2
    dx = dw = None
    if node.inputs[0] is not None:
        dx = _BACKWARD_INPUT[dims](dy, wa, xa.shape, **options)
    if node.inputs[1] is not None:
        dw = _BACKWARD_WEIGHT[dims](dy, xa, wa.shape, **options)
    return dx, dw, *_bias_gradient(node, dy)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """The convolution of (n, c, l), or (c, l), with weights (out, c / groups, k)."""
    return _convolve(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """The convolution of (n, c, h, w), or (c, h, w), with weights (out, c / groups, kh, kw)."""
    return _convolve(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """The convolution of (n, c, d, h, w), or without n, with (out, c / groups, kd, kh, kw)."""
    return _convolve(3, input, weight, bias, stride, padding, dilation, groups)


def _transpose(
    dims: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    output_padding: Size,
    groups: int,
    dilation: Size,
) -> Tensor:
    op = f"conv_transpose{dims}d"
    x, w = tensor_of(op, input), tensor_of(op, weight)
    if x._data.ndim == dims + 1:
        x = unsqueeze(x, 0)
        return squeeze(
            _transpose(dims, x, w, bias, stride, padding, output_padding, groups, dilation), 0
        )
    xa, wa = x._data, w._data
    ba = None if bias is None else tensor_of(op, bias)._data
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    out = _TRANSPOSE[dims](xa, wa, ba, output_padding=output_padding, **options)
    if bias is None:
        if recording(x, w):
            return record(out, _transpose_backward, (x, w), (xa, wa, options), (x, w))
    elif recording(x, w, bias):
        return record(out, _transpose_backward, (x, w, bias), (xa, wa, options), (x, w))
    return wrap(out)


def _transpose_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    """A transposed convolution is linear: its gradients are those of the convolution."""
    xa, wa, options = node.saved
    dims = dy.ndim - 2
    # With output_padding >= stride (and < dilation) the convolution of dy has more pixels than x.
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, p, d, s in zip(
            dy.shape[2:],
            wa.shape[2:],
            *(spread("conv", name, options[name], dims) for name in ("padding", "dilation")),
            spread("conv", "stride", options["stride"], dims),
        )
    ]
    inside = (slice(None), slice(None), *(slice(n) for n in xa.shape[2:]))
    dx = dw = None
    if node.inputs[0] is not None:
        dx = _FORWARD[dims](dy, wa, **options)[inside]
    if node.inputs[1] is not None:
        if tuple(size) != xa.shape[2:]:
            xa, small = np.zeros((*xa.shape[:2], *size), xa.dtype), xa
            xa[inside] = small
        dw = _BACKWARD_WEIGHT[dims](xa, dy, wa.shape, **options)
    return dx, dw, *_bias_gradient(node, dy)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transposed convolution of (n, c, l), or (c, l), with weights (c, out / groups, k)."""
    return _transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transposed convolution of (n, c, h, w), or (c, h, w), with (c, out / groups, kh, kw)."""
    return _transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transposed convolution of (n, c, d, h, w) with weights (c, out / groups, kd, kh, kw)."""
    return _transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


Kernels = dict[int, Callable[..., Array]]
_FORWARD: Kernels = {1: kernels.conv1d, 2: kernels.conv2d, 3: kernels.conv3d}
_BACKWARD_INPUT: Kernels = {
    1: kernels.conv1d_backward_input,
    2: kernels.conv2d_backward_input,
    3: kernels.conv3d_backward_input,
}
_BACKWARD_WEIGHT: Kernels = {
    1: kernels.conv1d_backward_weight,
    2: kernels.conv2d_backward_weight,
    3: kernels.conv3d_backward_weight,
}
_TRANSPOSE: Kernels = {
    1: kernels.conv_transpose1d,
    2: kernels.conv_transpose2d,
    3: kernels.conv_transpose3d,
}
