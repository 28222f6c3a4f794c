"""Two-dimensional convolution, and the windows of pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from .._core import ShapeError
from ..autograd import Node, record, recording, wrap
from .common import Array, tensor_of
from .shape import squeeze, unsqueeze

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["avg_pool2d", "conv2d", "max_pool2d"]

Pair = int | Sequence[int]


def _pair(op: str, name: str, value: Pair) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, (int, np.integer)) else tuple(value)
    if len(pair) != 2:
        raise ShapeError(f"{op}: {name} must be an int or a pair, got {value}")
    return int(pair[0]), int(pair[1])


def same_padding(kernel: tuple[int, int], stride: Pair, dilation: Pair) -> tuple[int, int]:
    """The padding that keeps height and width."""
    if _pair("conv2d", "stride", stride) != (1, 1):
        raise ValueError(f'conv2d: padding="same" needs stride 1, got {stride}')
    total = [d * (k - 1) for k, d in zip(kernel, _pair("conv2d", "dilation", dilation))]
    if total[0] % 2 or total[1] % 2:
        raise ValueError(
            f'conv2d: padding="same" needs an odd kernel_size (or an even dilation), got {kernel}; '
            "pad the input or give the padding in numbers"
        )
    return total[0] // 2, total[1] // 2


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """The convolution of (n, c, h, w), or (c, h, w), with weights (out, c / groups, kh, kw)."""
    x, w = tensor_of("conv2d", input), tensor_of("conv2d", weight)
    if x._data.ndim == 3:
        return squeeze(conv2d(unsqueeze(x, 0), w, bias, stride, padding, dilation, groups), 0)
    xa, wa = x._data, w._data
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f'conv2d: padding must be "same", "valid" or numbers, got {padding!r}')
        size = (wa.shape[-2], wa.shape[-1]) if wa.ndim == 4 else (1, 1)
        padding = same_padding(size, stride, dilation) if padding == "same" else 0
    ba = None if bias is None else tensor_of("conv2d", bias)._data
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    out = kernels.conv2d(xa, wa, ba, **options)
    if bias is None:
        if recording(x, w):
            return record(out, _conv2d_backward, (x, w), (xa, wa, options), (x, w))
    elif recording(x, w, bias):
        return record(out, _conv2d_backward, (x, w, bias), (xa, wa, options), (x, w))
    return wrap(out)


def _conv2d_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    xa, wa, options = node.saved
    inputs = node.inputs
    dx = dw = None
    if inputs[0] is not None:
        dx = kernels.conv2d_backward_input(dy, wa, xa.shape, **options)
    if inputs[1] is not None:
        dw = kernels.conv2d_backward_weight(dy, xa, wa.shape, **options)
    if len(inputs) == 2:
        return dx, dw
    return dx, dw, None if inputs[2] is None else kernels.sum(dy, axis=(0, 2, 3))


def max_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of (n, c, h, w) or (c, h, w).

    With return_indices also where it lies: the index (int64) in the flattened plane (h, w).
    """
    x = tensor_of("max_pool2d", input)
    if x._data.ndim == 3:
        found = max_pool2d(unsqueeze(x, 0), kernel_size, stride, padding, return_indices)
        if not return_indices:
            return squeeze(found, 0)
        return squeeze(found[0], 0), squeeze(found[1], 0)
    xa = x._data
    wants = recording(x)
    options = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    if not (wants or return_indices):
        return wrap(kernels.max_pool2d(xa, kernel_size, stride=stride, padding=padding))
    data, taps = kernels.max_pool2d(
        xa, kernel_size, stride=stride, padding=padding, return_indices=True
    )
    out = wrap(data)
    if wants:
        out = record(data, _max_pool2d_backward, (x,), (taps, xa.shape, options))
    if not return_indices:
        return out
    return out, wrap(_flat_indices(taps, xa.shape[3], kernel_size, stride, padding))


def _max_pool2d_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    taps, shape, options = node.saved
    return (kernels.max_pool2d_backward(dy, taps, shape, **options),)


def _flat_indices(
    taps: Array, width: int, kernel_size: Pair, stride: Pair | None, padding: Pair
) -> Array:
    """The place in the input plane of each window's tap (its number inside the window)."""
    size = _pair("max_pool2d", "kernel_size", kernel_size)
    step = size if stride is None else _pair("max_pool2d", "stride", stride)
    border = _pair("max_pool2d", "padding", padding)
    in_window = np.divmod(taps.astype(np.int64), size[1])
    rows = np.arange(taps.shape[2])[:, None] * step[0] - border[0] + in_window[0]
    columns = np.arange(taps.shape[3]) * step[1] - border[1] + in_window[1]
    return np.ascontiguousarray(rows * width + columns)


def avg_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window of (n, c, h, w) or (c, h, w)."""
    x = tensor_of("avg_pool2d", input)
    if x._data.ndim == 3:
        out = avg_pool2d(unsqueeze(x, 0), kernel_size, stride, padding, count_include_pad)
        return squeeze(out, 0)
    options = {
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": padding,
        "count_include_pad": count_include_pad,
    }
    data = kernels.avg_pool2d(x._data, **options)
    if recording(x):
        return record(data, _avg_pool2d_backward, (x,), (x._data.shape, options))
    return wrap(data)


def _avg_pool2d_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    shape, options = node.saved
    return (kernels.avg_pool2d_backward(dy, shape, **options),)
