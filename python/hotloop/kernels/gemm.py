"""Matrix products: general, linear layers, and the gradients of those."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from hotloop import _core

__all__ = ["GemmPack", "gemm", "gemm_pack", "linear", "linear_backward"]

Array = npt.NDArray[Any]
GemmPack = _core.GemmPack
_plain = _core.gemm


def gemm(
    a: Array,
    b: Array | GemmPack,
    bias: Array | None = None,
    *,
    trans_a: bool = False,
    trans_b: bool = False,
    alpha: float = 1.0,
    beta: float = 0.0,
    activation: str | None = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Multiplies matrices: activation(alpha * a @ b + bias + residual), or + beta * out.

    Sums run over k in an order that depends on shapes and strides alone: the same bits for any
    number of threads. Blocked after Goto and van de Geijn, "Anatomy of High-Performance Matrix
    Multiplication" (2008), with row-major tiles.

    Args:
        a: (..., m, k), or (..., k, m) with ``trans_a``; float32 or float64, any strides. A
            transposed view costs no more than ``trans_a``. Or bfloat16 (of ``ml_dtypes``): sums in
            float32, rounded once at the end, ``out`` in bfloat16 or float32, ``bias`` in either;
            where the CPU multiplies bfloat16, subnormal numbers in ``a`` and ``b`` count as 0.
        b: (..., k, n), or (..., n, k) with ``trans_b``; the dtype of ``a``. Leading axes broadcast
            as those of ``numpy.matmul`` do. Or a matrix that ``gemm_pack`` has packed.
        bias: (n,), added to each row.
        trans_a: exchange the last two axes of ``a``.
        trans_b: exchange the last two axes of ``b``.
        alpha: factor of the product.
        beta: factor of what ``out`` holds; with 0 that is never read, NaN or not.
        activation: "relu", "gelu", ... (the name of an activation kernel, with its default
            parameter), or None.
        residual: (..., m, n), added before the activation; takes the place of ``out`` in the sum,
            so beta must be 0.
        out: the destination (..., m, n); must not overlap an input, but may be ``residual``. Where
            its last axis is not contiguous it is written through a temporary.

    Returns:
        ``out``, or a new array (..., m, n). With k = 0 the product is 0.

    Raises:
        ShapeError: fewer than 2 axes, or sizes that do not fit.
        DTypeError: an argument is no float array, or dtypes differ.
        OutputError: out is read-only or overlaps an input, or is missing where beta is not 0.
        ValueError: an unknown activation, residual with beta, ``trans_b`` with a pack.
    """
    if bias is None and residual is None and activation is None and alpha == 1.0 and beta == 0.0:
        return _plain(a, b, trans_a, trans_b, out)
    return _core.gemm_epilogue(a, b, trans_a, trans_b, out, bias, residual, alpha, beta, activation)


def gemm_pack(b: Array, *, trans_b: bool = False) -> GemmPack:
    """Packs a matrix for many products with it: the order in which the inner loop reads it.

    A product packs what it needs on its own; ahead of time it pays where the same ``b`` meets few
    rows of ``a`` again and again, as the weights of a network that is trained no more.

    Args:
        b: (k, n), or (n, k) with ``trans_b`` (the weights of ``linear``); float32, float64,
            bfloat16, int8 or uint8, any strides. Copied: later changes of ``b`` do not show.
        trans_b: exchange the axes of ``b``.

    Returns:
        What ``gemm``, or ``gemm_int8`` for bytes, takes for b, and ``linear`` for w (packed with
        ``trans_b``). Its ``shape`` is (k, n).

    Raises:
        ShapeError: b has not 2 axes.
        DTypeError: b is no array of such numbers.
    """
    return _core.gemm_pack(b, trans_b)


def linear(
    x: Array,
    w: Array | GemmPack,
    b: Array | None = None,
    *,
    activation: str | None = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Applies a linear layer: activation(x @ w.T + b + residual).

    Args:
        x: (..., in), float32 or float64, any strides.
        w: (out, in), the dtype of ``x``; or ``gemm_pack(w, trans_b=True)``.
        b: (out,), or None.
        activation: the name of an activation, or None.
        residual: (..., out), added before the activation, or None.
        out: the destination (..., out); must not overlap an input, but may be ``residual``.

    Returns:
        ``out``, or a new array (..., out).

    Raises:
        ShapeError: sizes that do not fit.
        DTypeError: an argument is no float array, or dtypes differ.
        OutputError: out is read-only or overlaps an input.
        ValueError: an unknown activation.
    """
    return _core.linear(x, w, b, activation, residual, out)


def linear_backward(
    dy: Array, x: Array, w: Array, *, need_dx: bool = True, need_db: bool = True
) -> tuple[Array | None, Array, Array | None]:
    """Computes the gradients of ``linear`` (without activation).

    dx = dy @ w; dw = dy.T @ x and db = sum of dy, both over all leading axes.

    Args:
        dy: (..., out), the gradient of the result.
        x: (..., in), what ``linear`` was given.
        w: (out, in).
        need_dx: False leaves dx out (the first layer of a network needs none).
        need_db: False leaves db out.

    Returns:
        (dx, dw, db) of the shapes (..., in), (out, in) and (out,); None for what was left out.

    Raises:
        ShapeError: sizes that do not fit.
        DTypeError: an argument is no float array, or dtypes differ.
    """
    return _core.linear_backward(dy, x, w, need_dx, need_db)
