"""Convolution, ReLU and 2x2 max pooling as one kernel, and the gradient through the last two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy.typing as npt

from hotloop import _core

from .conv import ConvPack, Layout, Pair

__all__ = ["conv2d_relu_max_pool2d", "relu_max_pool2d_backward"]

Array = npt.NDArray[Any]


@overload
def conv2d_relu_max_pool2d(
    x: Array,
    w: Array | ConvPack,
    b: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: Layout = "NCHW",
    return_indices: Literal[False] = False,
    out: Array | None = None,
) -> Array: ...
@overload
def conv2d_relu_max_pool2d(
    x: Array,
    w: Array | ConvPack,
    b: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: Layout = "NCHW",
    return_indices: Literal[True],
    out: Array | None = None,
) -> tuple[Array, Array]: ...
def conv2d_relu_max_pool2d(
    x: Array,
    w: Array | ConvPack,
    b: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: Layout = "NCHW",
    return_indices: bool = False,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """max_pool2d(relu(conv2d(x, w, b)), 2), without ever storing what conv2d gives.

    Each piece of the convolution (some rows, up to 64 channels) is pooled while it is in cache, so
    that a quarter of the memory is written and none is read again. For finite x and w the bits are
    those of the three functions one after the other, unless w is of 1x1 pixels, which conv2d
    multiplies as plain matrices. Where each group has one channel the three functions are faster.

    Args:
        x: images, as in `conv2d`.
        w: kernels, or what ``conv_pack`` made of them, as in `conv2d`.
        b: bias (o,), or None.
        stride: of the convolution, as in `conv2d`.
        padding: of the convolution, likewise.
        dilation: of the convolution, likewise.
        groups: of the convolution, likewise.
        layout: how the axes of x, w and the result are called.
        return_indices: also return the tap of each window's first maximum
            (row * 2 + column, uint8; 4 where it is 0 and no gradient passes the ReLU), for
            `relu_max_pool2d_backward`.
        out: the destination (n, o, h // 2, w // 2), where h and w are the sizes of the
            convolution's result; an odd last row or column is left out.

    Returns:
        y, or (y, indices), stored channels-last.

    Raises:
        ShapeError: as `conv2d`, or a result of the convolution without a window.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input.
        ValueError: an unknown layout.
    """
    return _core.conv2d_relu_max_pool2d(
        x, w, b, stride, padding, dilation, groups, layout, return_indices, out
    )


def relu_max_pool2d_backward(
    dy: Array,
    indices: Array,
    x_shape: Sequence[int],
    *,
    layout: Layout = "NCHW",
    out: Array | None = None,
) -> Array:
    """The gradient of max_pool2d(relu(x), 2) with respect to x.

    dx[pixel] = dy where the index of its window names the pixel, else 0. After
    `conv2d_relu_max_pool2d` this is the dy that conv2d's gradients take: a buffer of the size of
    the convolution's result, the only one of that size.

    Args:
        dy: the gradient of the result of `conv2d_relu_max_pool2d`, any strides.
        indices: the taps that it gave with ``return_indices=True``.
        x_shape: the shape of the convolution's result.
        layout: how the axes are called.
        out: the destination, of shape x_shape.

    Returns:
        ``out``, or a new array, stored channels-last.

    Raises:
        ShapeError: sizes that do not fit.
        DTypeError: dy is no float array, or indices are not uint8.
        OutputError: out is read-only or overlaps an input.
        ValueError: an unknown layout.
    """
    return _core.relu_max_pool2d_backward(dy, indices, x_shape, layout, out)
