"""Max and average pooling over images, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy.typing as npt

from hotloop import _core

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]

Size = int | Sequence[int]
Layout = Literal["NCHW", "NHWC"]


@overload
def max_pool2d(
    x: npt.NDArray[Any],
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    layout: Layout = "NCHW",
    return_indices: Literal[False] = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]: ...
@overload
def max_pool2d(
    x: npt.NDArray[Any],
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    layout: Layout = "NCHW",
    return_indices: Literal[True],
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]: ...
def max_pool2d(
    x: npt.NDArray[Any],
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    layout: Layout = "NCHW",
    return_indices: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any] | tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The largest element of each window; padding counts as -inf, NaN wins.

    The result lies channels-last in memory; under "NCHW" it is a view with the axes renamed.

    Args:
        x: float32 or float64 of shape (n, c, h, w), or (n, h, w, c) under "NHWC"; any strides,
            fastest channels-last.
        kernel_size: the window, an integer or (h, w).
        stride: from window to window; the kernel's size if None.
        padding: on both sides, at most half the kernel.
        dilation: distance of a window's taps.
        ceil_mode: also windows that begin inside the image and end beyond its padding.
        layout: how the axes are named.
        return_indices: also return the tap of the first maximum inside its window
            (row * kernel width + column): uint8, uint16 above 256 taps, int32 above 65,536.
        out: the destination; x's dtype, (size + 2 * padding - reach) // stride + 1 pixels per
            axis, where reach = dilation * (kernel - 1) + 1. Other strides than channels-last go
            through scratch.

    Returns:
        y, or (y, indices).

    Raises:
        ShapeError: x without 4 axes or empty, a kernel that does not fit, too much padding, or
            out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x.
        ValueError: an unknown layout.
    """
    return _core.max_pool2d(
        x, kernel_size, stride, padding, dilation, ceil_mode, layout, return_indices, out
    )


def max_pool2d_backward(
    dy: npt.NDArray[Any],
    indices: npt.NDArray[Any],
    x_shape: Sequence[int],
    *,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    layout: Layout = "NCHW",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of max_pool2d: each window's dy goes to the pixel its index names.

    Where windows overlap, a pixel adds up its windows in row-major order.

    Args:
        dy: gradient of the result, any strides.
        indices: what ``max_pool2d(..., return_indices=True)`` returned.
        x_shape: the shape of x, in the order of ``layout``.
        kernel_size: as in ``max_pool2d``; likewise stride, padding and layout.
        stride: from window to window; the kernel's size if None.
        padding: on both sides.
        dilation: distance of a window's taps.
        ceil_mode: as in ``max_pool2d``.
        layout: how the axes are named.
        out: the destination; dy's dtype, shape x_shape. Other strides than channels-last go
            through scratch.

    Returns:
        dx: ``out``, or a new array of shape x_shape, channels-last in memory.

    Raises:
        ShapeError: dy or indices that do not fit x_shape, or out of another shape.
        DTypeError: dy is no float array, or indices or out have another dtype than expected.
        OutputError: out is read-only or overlaps dy or indices.
        ValueError: an unknown layout.
    """
    return _core.max_pool2d_backward(
        dy, indices, x_shape, kernel_size, stride, padding, dilation, ceil_mode, layout, out
    )


def avg_pool2d(
    x: npt.NDArray[Any],
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: Layout = "NCHW",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The mean of each window: sum / (kernel_h * kernel_w), padding counting as zeros.

    The result lies channels-last in memory; under "NCHW" it is a view with the axes renamed.

    Args:
        x: float32 or float64 of shape (n, c, h, w), or (n, h, w, c) under "NHWC"; any strides,
            fastest channels-last.
        kernel_size: the window, an integer or (h, w).
        stride: from window to window; the kernel's size if None.
        padding: on both sides, at most half the kernel.
        ceil_mode: also windows that begin inside the image and end beyond its padding; what lies
            beyond the padding does not count.
        count_include_pad: False divides by the number of pixels inside the image instead.
        layout: how the axes are named.
        out: the destination; x's dtype, (size + 2 * padding - kernel) // stride + 1 pixels per
            axis. Other strides than channels-last go through scratch.

    Returns:
        ``out``, or a new array.

    Raises:
        ShapeError: x without 4 axes or empty, a kernel that does not fit, too much padding, or
            out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x.
        ValueError: an unknown layout.
    """
    return _core.avg_pool2d(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, layout, out
    )


def avg_pool2d_backward(
    dy: npt.NDArray[Any],
    x_shape: Sequence[int],
    *,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    layout: Layout = "NCHW",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of avg_pool2d: each pixel adds up dy / count of the windows that cover it.

    Args:
        dy: gradient of the result, any strides.
        x_shape: the shape of x, in the order of ``layout``.
        kernel_size: as in ``avg_pool2d``; likewise stride, padding, layout and count_include_pad.
        stride: from window to window; the kernel's size if None.
        padding: on both sides.
        ceil_mode: as in ``avg_pool2d``.
        count_include_pad: as in ``avg_pool2d``.
        layout: how the axes are named.
        out: the destination; dy's dtype, shape x_shape. Other strides than channels-last go
            through scratch.

    Returns:
        dx: ``out``, or a new array of shape x_shape, channels-last in memory.

    Raises:
        ShapeError: dy that does not fit x_shape, or out of another shape.
        DTypeError: dy is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps dy.
        ValueError: an unknown layout.
    """
    return _core.avg_pool2d_backward(
        dy, x_shape, kernel_size, stride, padding, ceil_mode, count_include_pad, layout, out
    )


@overload
def adaptive_max_pool2d(
    x: npt.NDArray[Any],
    output_size: Size,
    *,
    layout: Layout = "NCHW",
    return_indices: Literal[False] = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]: ...
@overload
def adaptive_max_pool2d(
    x: npt.NDArray[Any],
    output_size: Size,
    *,
    layout: Layout = "NCHW",
    return_indices: Literal[True],
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]: ...
def adaptive_max_pool2d(
    x: npt.NDArray[Any],
    output_size: Size,
    *,
    layout: Layout = "NCHW",
    return_indices: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any] | tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The largest element of each of `output_size` windows that share the image out evenly.

    Window i of k along an axis of n pixels covers [floor(i * n / k), ceil((i + 1) * n / k)).

    Args:
        x: as in ``max_pool2d``.
        output_size: windows along each axis, an integer or (h, w); 1 is the whole image.
        layout: how the axes are named.
        return_indices: also return the tap of the first maximum inside its window
            (row * width of the largest window + column), typed as in ``max_pool2d``.
        out: the destination; x's dtype, output_size pixels.

    Returns:
        y, or (y, indices).

    Raises:
        ShapeError: x without 4 axes or empty, an output_size below 1, or out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x.
        ValueError: an unknown layout.
    """
    return _core.adaptive_max_pool2d(x, output_size, layout, return_indices, out)


def adaptive_max_pool2d_backward(
    dy: npt.NDArray[Any],
    indices: npt.NDArray[Any],
    x_shape: Sequence[int],
    *,
    output_size: Size,
    layout: Layout = "NCHW",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of `adaptive_max_pool2d`, from the indices that it returned."""
    return _core.adaptive_max_pool2d_backward(dy, indices, x_shape, output_size, layout, out)


def adaptive_avg_pool2d(
    x: npt.NDArray[Any],
    output_size: Size,
    *,
    layout: Layout = "NCHW",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The mean of each of `output_size` windows that share the image out evenly.

    The windows are those of `adaptive_max_pool2d`. With output_size 1 the global mean.

    Args:
        x: as in ``avg_pool2d``.
        output_size: windows along each axis, an integer or (h, w).
        layout: how the axes are named.
        out: the destination; x's dtype, output_size pixels.

    Returns:
        ``out``, or a new array.

    Raises:
        ShapeError: x without 4 axes or empty, an output_size below 1, or out of another shape.
        DTypeError: x is no float array, or out has another dtype.
        OutputError: out is read-only or overlaps x.
        ValueError: an unknown layout.
    """
    return _core.adaptive_avg_pool2d(x, output_size, layout, out)


def adaptive_avg_pool2d_backward(
    dy: npt.NDArray[Any],
    x_shape: Sequence[int],
    *,
    output_size: Size,
    layout: Layout = "NCHW",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of `adaptive_avg_pool2d`: dy / count of the windows that cover a pixel."""
    return _core.adaptive_avg_pool2d_backward(dy, x_shape, output_size, layout, out)
