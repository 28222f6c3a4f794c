"""Numbers as bytes: quantize, dequantize, requantize, and the product of bytes."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from hotloop import _core

__all__ = ["dequantize", "gemm_int8", "quantize", "requantize"]

Array = npt.NDArray[Any]


def gemm_int8(
    a: Array,
    b: Array | _core.GemmPack,
    bias: Array | None = None,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    a_zero: int = 0,
    b_zero: int | Array = 0,
    scale: float | Array | None = None,
    out_zero: int = 0,
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
) -> Array:
    """Multiplies matrices of bytes: (a - a_zero) @ (b - b_zero) + bias, in int32.

    With `scale` the sums are times it, as float32, or as bytes: saturate(round(scale * sum) +
    out_zero), rounded to the nearest, ties to even. Sums wrap around at 2**32 and are exact below
    2**31; nothing saturates on the way. Every level and every number of threads gives the same
    bits. Zero points are taken out of the product by the sums of rows and columns (Jacob et al.,
    "Quantization and Training of Neural Networks", 2018, eq. 7).

    Args:
        a: (..., m, k), or (..., k, m) with ``trans_a``; int8 or uint8, any strides.
        b: (..., k, n), or (..., n, k) with ``trans_b``; int8 or uint8. Leading axes broadcast as
            those of ``numpy.matmul`` do. Or a matrix that ``gemm_pack`` has packed.
        bias: (n,), int32, added to the sums.
        trans_a: exchange the last two axes of ``a``.
        trans_b: exchange the last two axes of ``b``.
        a_zero: the zero point of ``a``.
        b_zero: the zero point of ``b``, or int32 (n,), one for each column.
        scale: factor of the sums, or float32 (n,), one for each column; positive and finite.
        out_zero: the zero point of a result of bytes.
        dtype: "float32", "int8" or "uint8" with ``scale``, else "int32"; ``out`` decides as well.
        out: the destination (..., m, n); must not overlap an input.

    Returns:
        ``out``, or a new array (..., m, n): int32 without ``scale``, float32 with it, or ``dtype``.

    Raises:
        ShapeError: fewer than 2 axes, or sizes that do not fit.
        DTypeError: an argument or the result is of no such dtype.
        OutputError: out is read-only or overlaps an input.
        ValueError: a zero point outside its dtype, a scale that is not positive and finite,
            ``trans_b`` with a pack.
    """
    return _core.gemm_int8(
        a, b, bias, trans_a, trans_b, a_zero, b_zero, scale, out_zero, dtype, out
    )


def quantize(
    x: Array,
    scale: float | Array,
    zero_point: int | Array = 0,
    *,
    axis: int | None = None,
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
) -> Array:
    """Numbers to bytes: saturate(round(x / scale) + zero_point).

    Rounded to the nearest, ties to even; NaN becomes the zero point. As ONNX's QuantizeLinear.

    Args:
        x: float32, any shape and strides.
        scale: positive and finite; with ``axis`` float32 (x.shape[axis],).
        zero_point: in the range of the result; with ``axis`` also int32 (x.shape[axis],).
        axis: the axis along which scales and zero points differ, or None: one for all.
        dtype: "uint8" (the default) or "int8".
        out: the destination, of the shape of ``x``.

    Returns:
        ``out``, or a new array of the shape of ``x``.

    Raises:
        ShapeError: scales, zero points or out do not have the shape they must have.
        DTypeError: an argument or the result is of no such dtype.
        OutputError: out is read-only or overlaps ``x``.
        ValueError: a zero point outside the dtype, or a scale that is not positive and finite.
    """
    return _core.quantize(x, scale, zero_point, axis, dtype, out)


def requantize(
    x: Array,
    scale: float | Array,
    zero_point: int | Array = 0,
    *,
    axis: int | None = None,
    dtype: npt.DTypeLike | None = None,
    out: Array | None = None,
) -> Array:
    """Sums to bytes: saturate(round(x * scale) + zero_point), x taken to float32 first.

    What ``gemm_int8`` does with its sums where bytes are asked for.

    Args:
        x: int32, any shape and strides.
        scale: positive and finite; with ``axis`` float32 (x.shape[axis],).
        zero_point: in the range of the result; with ``axis`` also int32 (x.shape[axis],).
        axis: the axis along which scales and zero points differ, or None: one for all.
        dtype: "uint8" (the default) or "int8".
        out: the destination, of the shape of ``x``.

    Returns:
        ``out``, or a new array of the shape of ``x``.

    Raises:
        ShapeError: scales, zero points or out do not have the shape they must have.
        DTypeError: an argument or the result is of no such dtype.
        OutputError: out is read-only or overlaps ``x``.
        ValueError: a zero point outside the dtype, or a scale that is not positive and finite.
    """
    return _core.requantize(x, scale, zero_point, axis, dtype, out)


def dequantize(
    x: Array,
    scale: float | Array,
    zero_point: int | Array = 0,
    *,
    axis: int | None = None,
    out: Array | None = None,
) -> Array:
    """Bytes to numbers: (x - zero_point) * scale, in float32.

    Args:
        x: int8 or uint8, any shape and strides.
        scale: positive and finite; with ``axis`` float32 (x.shape[axis],).
        zero_point: in the range of the dtype; with ``axis`` also int32 (x.shape[axis],).
        axis: the axis along which scales and zero points differ, or None: one for all.
        out: the destination, float32 of the shape of ``x``.

    Returns:
        ``out``, or a new float32 array of the shape of ``x``.

    Raises:
        ShapeError: scales, zero points or out do not have the shape they must have.
        DTypeError: ``x`` is no array of bytes, or out not float32.
        OutputError: out is read-only or overlaps ``x``.
        ValueError: a zero point outside the dtype, or a scale that is not positive and finite.
    """
    return _core.dequantize(x, scale, zero_point, axis, out)
