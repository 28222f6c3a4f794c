"""Convolutions over images, signals and volumes, forward and backward, and their transposes.

Images are stored channels-last. ``layout`` says how the axes are called: under ``"NCHW"`` the
result has the shape (n, c, h, w) and is a transposed view of a channels-last buffer, so
``y.transpose(0, 2, 3, 1)`` is contiguous and the next kernel reads it without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy.typing as npt

from hotloop import _core

__all__ = [
    "ConvPack",
    "conv1d",
    "conv1d_backward_input",
    "conv1d_backward_weight",
    "conv2d",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv3d",
    "conv3d_backward_input",
    "conv3d_backward_weight",
    "conv_pack",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]

Pair = int | tuple[int, int]
Layout = Literal["NCHW", "NHWC"]
Single = int | tuple[int]
SignalLayout = Literal["NCL", "NLC"]
Triple = int | tuple[int, int, int]
VolumeLayout = Literal["NCDHW", "NDHWC"]
Algorithm = Literal["direct", "winograd"]
ConvPack = _core.ConvPack


def conv2d(
    x: npt.NDArray[Any],
    w: npt.NDArray[Any] | ConvPack,
    b: npt.NDArray[Any] | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: Layout = "NCHW",
    activation: str | None = None,
    residual: npt.NDArray[Any] | None = None,
    algorithm: Algorithm = "direct",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Convolves images with a set of kernels (the cross-correlation that networks call so).

    y[n, o, i, j] = f(r[n, o, i, j] + b[o] + sum over c, k, l of
    x[n, c, i * stride + k * dilation - padding, j * stride + l * dilation - padding] *
    w[o, c, k, l]), where x is 0 outside of the image, r the residual and f the activation. With
    groups, output channel o sees only the input channels of its group. The sizes of y are
    (h + 2 * padding - dilation * (kh - 1) - 1) // stride + 1, and likewise for w.

    An implicit matrix product on channels-last memory; x in other orders is copied piece by piece.
    The bits depend on shapes and the level, not on the threads; with 1x1 kernels, and where a
    result has up to 64 pixels in all, on the operands' strides as well.

    Args:
        x: images, float32 or float64, (n, c, h, w) under NCHW, (n, h, w, c) under NHWC; any
            strides, channels-last memory is the fastest. Or bfloat16 (of ``ml_dtypes``): sums in
            float32, rounded once at the end, ``b`` in either, ``out`` bfloat16 unless given in
            float32; where the CPU multiplies bfloat16, subnormal numbers count as 0.
        w: kernels of the same dtype, (o, c / groups, kh, kw) under NCHW, (kh, kw, c / groups, o)
            under NHWC; any strides. Or what ``conv_pack`` made of them.
        b: bias (o,), or None.
        stride: step of the kernel in pixels, an integer or (along h, along w).
        padding: rows and columns of zeros around the image, likewise.
        dilation: distance of the kernel's taps, likewise.
        groups: number of independent groups of channels; must divide c and o.
        layout: how the axes of x, w and the result are called.
        activation: a name of ``hotloop.kernels``' activations ("relu", "gelu", ...) with its
            default parameter, or None.
        residual: added before the activation, of the result's shape and dtype; memory that is not
            channels-last is copied. None adds nothing. Not for bfloat16.
        algorithm: "direct", or "winograd" for float32 kernels of 3x3 pixels with stride 1,
            dilation 1 and one group: F(4x4, 3x3) multiplies a quarter as often. Its error is up to
            twice as large (1e-6 of the largest y), NaN and infinities spread over 4x4 pixels. Pays
            from some 32 channels and 12 pixels on, most where x is channels-last; never chosen by
            itself.
        out: the destination; any strides, but memory that is not channels-last is written through
            a copy. Must not overlap x, w, b or residual.

    Returns:
        ``out``, or a new array, stored channels-last: under NCHW a transposed view.

    Raises:
        ShapeError: sizes that do not fit, an empty array, a kernel larger than the padded image,
            a pack made for other groups, a geometry that Winograd does not take.
        DTypeError: arrays that are no float arrays or of different dtypes, Winograd not in float32.
        OutputError: out is read-only or overlaps an input.
        ValueError: an unknown layout, activation or algorithm, a residual in bfloat16.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016;
    Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.
    """
    return _core.conv2d(
        x, w, b, stride, padding, dilation, groups, layout, activation, residual, algorithm, out
    )


def conv_pack(
    w: npt.NDArray[Any],
    *,
    groups: int = 1,
    layout: Layout | SignalLayout | VolumeLayout | None = None,
) -> ConvPack:
    """Packs weights for many convolutions with them: the order in which the inner loop reads it.

    A convolution packs what it needs on its own; ahead of time it pays where the same w meets few
    pixels again and again, as in a network that is trained no more. The results are the same bits,
    but for 1x1 kernels, which without a pack are plain products and add in another order, and for
    results of up to 64 pixels, which without a pack read w as it lies.

    Args:
        w: the kernels of `conv1d`, `conv2d` or `conv3d`, which its number of axes tells; any
            strides. Copied: later changes of w do not show.
        groups: of the convolution.
        layout: how w's axes are called; channels first if None.

    Returns:
        What these functions take for w. It has a ``dtype``, ``groups`` and ``nbytes``.

    Raises:
        ShapeError: other than 3 to 5 axes, an empty array, groups that do not divide the output
            channels.
        DTypeError: w is no float array.
        ValueError: an unknown layout.
    """
    return _core.conv_pack(w, groups, layout)


def conv2d_backward_input(
    dy: npt.NDArray[Any],
    w: npt.NDArray[Any],
    x_shape: Sequence[int],
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: Layout = "NCHW",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of conv2d with respect to x (also known as a transposed convolution).

    dx[n, c, i * stride + k * dilation - padding, j * stride + l * dilation - padding] +=
    dy[n, o, i, j] * w[o, c, k, l], for everything that lies inside of the image.

    Args:
        dy: the gradient of conv2d's result (before its activation), of its shape; any strides.
        w: the kernels that conv2d was given.
        x_shape: the shape of conv2d's x, which dy's shape does not tell when stride > 1.
        stride: as in conv2d.
        padding: as in conv2d.
        dilation: as in conv2d.
        groups: as in conv2d.
        layout: as in conv2d.
        out: the destination; of shape x_shape, otherwise as in conv2d.

    Returns:
        ``out``, or a new array of shape x_shape, stored channels-last.

    Raises:
        ShapeError: sizes that do not fit those of a forward call.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input.
    """
    return _core.conv2d_backward_input(
        dy, w, x_shape, stride, padding, dilation, groups, layout, out
    )


def conv2d_backward_weight(
    dy: npt.NDArray[Any],
    x: npt.NDArray[Any],
    w_shape: Sequence[int],
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: Layout = "NCHW",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of conv2d with respect to w.

    dw[o, c, k, l] = sum over n, i, j of dy[n, o, i, j] *
    x[n, c, i * stride + k * dilation - padding, j * stride + l * dilation - padding].
    The sum runs over fixed pieces of the images that are added in order. (The gradient with
    respect to b is the sum of dy over its other axes.)

    Args:
        dy: the gradient of conv2d's result (before its activation), of its shape; any strides.
        x: the images that conv2d was given.
        w_shape: the shape of conv2d's w.
        stride: as in conv2d.
        padding: as in conv2d.
        dilation: as in conv2d.
        groups: as in conv2d.
        layout: as in conv2d.
        out: the destination; of shape w_shape and any strides; must not overlap dy or x.

    Returns:
        ``out``, or a new C-contiguous array of shape w_shape.

    Raises:
        ShapeError: sizes that do not fit those of a forward call.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input.
    """
    return _core.conv2d_backward_weight(
        dy, x, w_shape, stride, padding, dilation, groups, layout, out
    )


def conv1d(
    x: npt.NDArray[Any],
    w: npt.NDArray[Any] | ConvPack,
    b: npt.NDArray[Any] | None = None,
    *,
    stride: Single = 1,
    padding: Single = 0,
    dilation: Single = 1,
    groups: int = 1,
    layout: SignalLayout = "NCL",
    activation: str | None = None,
    residual: npt.NDArray[Any] | None = None,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """`conv2d` for signals (n, c, l) and w (o, c / groups, k), or (n, l, c) and (k, c / groups, o).

    Stored channels-last like images. Arguments, result and errors as those of `conv2d` (of float32
    and float64, direct only); stride, padding and dilation are an integer or a tuple of one.
    """
    return _core.conv1d(
        x, w, b, stride, padding, dilation, groups, layout, activation, residual, None, out
    )


def conv1d_backward_input(
    dy: npt.NDArray[Any],
    w: npt.NDArray[Any],
    x_shape: Sequence[int],
    *,
    stride: Single = 1,
    padding: Single = 0,
    dilation: Single = 1,
    groups: int = 1,
    layout: SignalLayout = "NCL",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of `conv1d` with respect to x; see `conv2d_backward_input`."""
    return _core.conv1d_backward_input(
        dy, w, x_shape, stride, padding, dilation, groups, layout, out
    )


def conv1d_backward_weight(
    dy: npt.NDArray[Any],
    x: npt.NDArray[Any],
    w_shape: Sequence[int],
    *,
    stride: Single = 1,
    padding: Single = 0,
    dilation: Single = 1,
    groups: int = 1,
    layout: SignalLayout = "NCL",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of `conv1d` with respect to w; see `conv2d_backward_weight`."""
    return _core.conv1d_backward_weight(
        dy, x, w_shape, stride, padding, dilation, groups, layout, out
    )


def conv3d(
    x: npt.NDArray[Any],
    w: npt.NDArray[Any] | ConvPack,
    b: npt.NDArray[Any] | None = None,
    *,
    stride: Triple = 1,
    padding: Triple = 0,
    dilation: Triple = 1,
    groups: int = 1,
    layout: VolumeLayout = "NCDHW",
    activation: str | None = None,
    residual: npt.NDArray[Any] | None = None,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """`conv2d` for volumes (n, c, d, h, w) and w (o, c / groups, kd, kh, kw).

    Under NDHWC x is (n, d, h, w, c) and w (kd, kh, kw, c / groups, o).

    Stored channels-last like images. Arguments, result and errors as those of `conv2d` (of float32
    and float64, direct only); stride, padding and dilation are an integer or three of them.
    """
    return _core.conv3d(
        x, w, b, stride, padding, dilation, groups, layout, activation, residual, None, out
    )


def conv3d_backward_input(
    dy: npt.NDArray[Any],
    w: npt.NDArray[Any],
    x_shape: Sequence[int],
    *,
    stride: Triple = 1,
    padding: Triple = 0,
    dilation: Triple = 1,
    groups: int = 1,
    layout: VolumeLayout = "NCDHW",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of `conv3d` with respect to x; see `conv2d_backward_input`."""
    return _core.conv3d_backward_input(
        dy, w, x_shape, stride, padding, dilation, groups, layout, out
    )


def conv3d_backward_weight(
    dy: npt.NDArray[Any],
    x: npt.NDArray[Any],
    w_shape: Sequence[int],
    *,
    stride: Triple = 1,
    padding: Triple = 0,
    dilation: Triple = 1,
    groups: int = 1,
    layout: VolumeLayout = "NCDHW",
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of `conv3d` with respect to w; see `conv2d_backward_weight`."""
    return _core.conv3d_backward_weight(
        dy, x, w_shape, stride, padding, dilation, groups, layout, out
    )


def conv_transpose2d(
    x: npt.NDArray[Any],
    w: npt.NDArray[Any],
    b: npt.NDArray[Any] | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    layout: Layout = "NCHW",
    activation: str | None = None,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The transposed convolution: what `conv2d_backward_input` computes, as a layer of its own.

    y[n, c, i * stride + k * dilation - padding, ...] += x[n, o, i, ...] * w[o, c, k, ...], then
    bias and activation. The sizes of y are
    (h - 1) * stride - 2 * padding + dilation * (kh - 1) + 1 + output_padding. Its gradients are
    conv2d(dy, w) and conv2d_backward_weight(x, dy, w.shape) with the same settings.

    Args:
        x: images as those of `conv2d`.
        w: (c, out / groups, kh, kw) under NCHW, (kh, kw, out / groups, c) under NHWC, with the
            channels c of x: the kernels of the convolution that is turned round.
        b: bias (out,), or None.
        stride: of the convolution that is turned round; the result grows by it.
        padding: rows and columns cut off from the result, an integer or (along h, along w).
        output_padding: more rows at the bottom and columns on the right, less than stride or
            dilation.
        dilation: distance of the kernel's taps.
        groups: number of independent groups of channels.
        layout: how the axes are called.
        activation: as in `conv2d`.
        out: as in `conv2d`.

    Returns:
        ``out``, or a new array, stored channels-last.

    Raises:
        ShapeError: sizes that do not fit, an empty array.
        DTypeError: arrays that are no float arrays or of different dtypes.
        OutputError: out is read-only or overlaps an input.
        ValueError: an unknown layout or activation.
    """
    return _core.conv_transpose2d(
        x, w, b, stride, padding, output_padding, dilation, groups, layout, activation, out
    )


def conv_transpose1d(
    x: npt.NDArray[Any],
    w: npt.NDArray[Any],
    b: npt.NDArray[Any] | None = None,
    *,
    stride: Single = 1,
    padding: Single = 0,
    output_padding: Single = 0,
    dilation: Single = 1,
    groups: int = 1,
    layout: SignalLayout = "NCL",
    activation: str | None = None,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """`conv_transpose2d` for signals (n, c, l) and w (c, out / groups, k)."""
    return _core.conv_transpose1d(
        x, w, b, stride, padding, output_padding, dilation, groups, layout, activation, out
    )


def conv_transpose3d(
    x: npt.NDArray[Any],
    w: npt.NDArray[Any],
    b: npt.NDArray[Any] | None = None,
    *,
    stride: Triple = 1,
    padding: Triple = 0,
    output_padding: Triple = 0,
    dilation: Triple = 1,
    groups: int = 1,
    layout: VolumeLayout = "NCDHW",
    activation: str | None = None,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """`conv_transpose2d` for volumes (n, c, d, h, w) and w (c, out / groups, kd, kh, kw)."""
    return _core.conv_transpose3d(
        x, w, b, stride, padding, output_padding, dilation, groups, layout, activation, out
    )
