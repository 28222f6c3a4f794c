"""The largest or the mean element of each window of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from ..autograd import Node, record, recording, wrap
from .common import Array, tensor_of
from .convolution import Size, spread
from .shape import squeeze, unsqueeze

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d"]


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window of (n, c, h, w) or (c, h, w).

    With return_indices also where it lies: the index (int64) in the flattened plane (h, w).
    """
    x = tensor_of("max_pool2d", input)
    if x._data.ndim == 3:
        options = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        return _without_batch(max_pool2d(unsqueeze(x, 0), *options))
    xa = x._data
    how = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    if not (_is_one(dilation) and not ceil_mode):
        how |= {"dilation": dilation, "ceil_mode": ceil_mode}
    wants = recording(x)
    if not (wants or return_indices):
        return wrap(kernels.max_pool2d(xa, **how))
    data, taps = kernels.max_pool2d(xa, return_indices=True, **how)
    out = record(data, _max_pool2d_backward, (x,), (taps, xa.shape, how)) if wants else wrap(data)
    if not return_indices:
        return out
    size = spread("max_pool2d", "kernel_size", kernel_size, 2)
    step = size if stride is None else spread("max_pool2d", "stride", stride, 2)
    border = spread("max_pool2d", "padding", padding, 2)
    apart = spread("max_pool2d", "dilation", dilation, 2)
    starts = [np.arange(n) * s - p for n, s, p in zip(taps.shape[2:], step, border)]
    return out, wrap(_flat_indices(taps, xa.shape[3], starts, size[1], apart))


def _is_one(value: Size) -> bool:
    return value == 1 if isinstance(value, int) else tuple(value) == (1, 1)


def _without_batch(found: Any) -> Any:
    if isinstance(found, tuple):
        return tuple(squeeze(part, 0) for part in found)
    return squeeze(found, 0)


def _max_pool2d_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    taps, shape, options = node.saved
    return (kernels.max_pool2d_backward(dy, taps, shape, **options),)


def _flat_indices(
    taps: Array, width: int, starts: Sequence[Array], kernel_width: int, dilation: Sequence[int]
) -> Array:
    """The place in the input plane of each window's tap (its number inside the window)."""
    in_window = np.divmod(taps.astype(np.int64), kernel_width)
    rows = starts[0][:, None] + in_window[0] * dilation[0]
    columns = starts[1] + in_window[1] * dilation[1]
    return np.ascontiguousarray(rows * width + columns)


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window of (n, c, h, w) or (c, h, w)."""
    x = tensor_of("avg_pool2d", input)
    if x._data.ndim == 3:
        options = (kernel_size, stride, padding, ceil_mode, count_include_pad)
        return squeeze(avg_pool2d(unsqueeze(x, 0), *options), 0)
    how = {
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": padding,
        "ceil_mode": ceil_mode,
        "count_include_pad": count_include_pad,
    }
    data = kernels.avg_pool2d(x._data, **how)
    if recording(x):
        return record(data, _avg_pool2d_backward, (x,), (x._data.shape, how))
    return wrap(data)


def _avg_pool2d_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    shape, options = node.saved
    return (kernels.avg_pool2d_backward(dy, shape, **options),)


def _output_size(
    op: str, output_size: int | Sequence[int | None] | None, shape: Sequence[int]
) -> tuple[int, ...]:
    """None keeps the size of the input."""
    if output_size is None or isinstance(output_size, (int, np.integer)):
        output_size = (output_size, output_size)
    known = [size if want is None else want for want, size in zip(output_size, shape[2:])]
    return spread(op, "output_size", known if len(output_size) == 2 else list(output_size), 2)  # type: ignore[arg-type]


def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None] | None) -> Tensor:
    """The mean of each of output_size windows that share (n, c, h, w) or (c, h, w) out evenly."""
    x = tensor_of("adaptive_avg_pool2d", input)
    if x._data.ndim == 3:
        return squeeze(adaptive_avg_pool2d(unsqueeze(x, 0), output_size), 0)
    shape = x._data.shape
    size = _output_size("adaptive_avg_pool2d", output_size, shape)
    data = kernels.adaptive_avg_pool2d(x._data, size)
    if recording(x):
        return record(data, _adaptive_avg_pool2d_backward, (x,), (shape, size))
    return wrap(data)


def _adaptive_avg_pool2d_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    shape, size = node.saved
    return (kernels.adaptive_avg_pool2d_backward(dy, shape, output_size=size),)


def adaptive_max_pool2d(
    input: Tensor,
    output_size: int | Sequence[int | None] | None,
    return_indices: bool = False,
) -> Any:
    """The largest element of each of output_size windows that share the image out evenly.

    With return_indices also where it lies: the index (int64) in the flattened plane (h, w).
    """
    x = tensor_of("adaptive_max_pool2d", input)
    if x._data.ndim == 3:
        return _without_batch(adaptive_max_pool2d(unsqueeze(x, 0), output_size, return_indices))
    xa = x._data
    size = _output_size("adaptive_max_pool2d", output_size, xa.shape)
    wants = recording(x)
    if not (wants or return_indices):
        return wrap(kernels.adaptive_max_pool2d(xa, size))
    data, taps = kernels.adaptive_max_pool2d(xa, size, return_indices=True)
    out = wrap(data)
    if wants:
        out = record(data, _adaptive_max_pool2d_backward, (x,), (taps, xa.shape, size))
    if not return_indices:
        return out
    starts = [np.arange(k) * n // k for k, n in zip(size, xa.shape[2:])]
    ends = -(-(np.arange(1, size[1] + 1) * xa.shape[3]) // size[1])
    widest = int((ends - starts[1]).max())
    return out, wrap(_flat_indices(taps, xa.shape[3], starts, widest, (1, 1)))


def _adaptive_max_pool2d_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    taps, shape, size = node.saved
    return (kernels.adaptive_max_pool2d_backward(dy, taps, shape, output_size=size),)
