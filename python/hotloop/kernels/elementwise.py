"""Arithmetic and elementary functions, element by element, with ``out=``.

Arrays are float32 or float64, of any shape and strides; two arrays must share their dtype and
broadcast as NumPy's do. One operand of the binary functions may be a Python number, which takes the
array's dtype. The result's axes lie in memory as those of the operands do; ``out`` may be an
operand itself. All raise ``DTypeError`` for other or different dtypes, ``ShapeError`` for shapes
that do not broadcast, ``OutputError`` for an ``out`` that is read-only or partly overlaps an
operand.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hotloop import _core

__all__ = [
    "abs",
    "add",
    "div",
    "erf",
    "exp",
    "expm1",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "mul",
    "neg",
    "reciprocal",
    "sqrt",
    "square",
    "sub",
]

T = TypeVar("T", bound=np.floating)


def add(
    a: NDArray[T] | float, b: NDArray[T] | float, *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """``a + b``.

    Args:
        a: float32 or float64, any shape and strides, or a Python number.
        b: Likewise, of the same dtype; the shapes broadcast. At most one is a number.
        out: Where to write the result, any strides; may be a or b itself.

    Returns:
        ``out``, or a fresh array whose axes lie in memory as the operands' do.

    Raises:
        DTypeError: If the dtypes differ or are neither float32 nor float64.
        ShapeError: If the shapes do not broadcast, or out does not have the shape of the result.
        OutputError: If out is read-only or partly overlaps an operand.
    """
    return _core.add(a, b, out)


def sub(
    a: NDArray[T] | float, b: NDArray[T] | float, *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """``a - b``.

    Arguments, result and errors as in :func:`add`.
    """
    return _core.sub(a, b, out)


def mul(
    a: NDArray[T] | float, b: NDArray[T] | float, *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """``a * b``.

    Arguments, result and errors as in :func:`add`.
    """
    return _core.mul(a, b, out)


def div(
    a: NDArray[T] | float, b: NDArray[T] | float, *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """``a / b``.

    Arguments, result and errors as in :func:`add`.
    """
    return _core.div(a, b, out)


def maximum(
    a: NDArray[T] | float, b: NDArray[T] | float, *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """The larger one; NaN if either is NaN.

    Arguments, result and errors as in :func:`add`.
    """
    return _core.maximum(a, b, out)


def minimum(
    a: NDArray[T] | float, b: NDArray[T] | float, *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """The smaller one; NaN if either is NaN.

    Arguments, result and errors as in :func:`add`.
    """
    return _core.minimum(a, b, out)


def neg(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """``-x``.

    Arguments, result and errors as in :func:`exp`.
    """
    return _core.neg(x, out)


def abs(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """``|x|``.

    Arguments, result and errors as in :func:`exp`.
    """
    return _core.abs(x, out)


def square(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """``x * x``.

    Arguments, result and errors as in :func:`exp`.
    """
    return _core.square(x, out)


def reciprocal(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """``1 / x``.

    Arguments, result and errors as in :func:`exp`.
    """
    return _core.reciprocal(x, out)


def sqrt(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Square root, correctly rounded; NaN below 0.

    Arguments, result and errors as in :func:`exp`.
    """
    return _core.sqrt(x, out)


def exp(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Exponential, within 2 ULP in float32 and 4 in float64.

    Args:
        x: float32 or float64, any shape and strides.
        out: Where to write the result, of x's shape and dtype, any strides; may be x itself.

    Returns:
        ``out``, or a fresh array whose axes lie in memory as x's do.

    Raises:
        DTypeError: If x is no array of float32 or float64, or out has another dtype.
        ShapeError: If out has another shape.
        OutputError: If out is read-only or partly overlaps x.
    """
    return _core.exp(x, out)


def expm1(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """``exp(x) - 1`` without cancellation near 0.

    Arguments, result and errors as in :func:`exp`.
    """
    return _core.expm1(x, out)


def log(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Natural logarithm; ``-inf`` at 0, NaN below.

    Arguments, result and errors as in :func:`exp`.
    """
    return _core.log(x, out)


def log1p(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """``log(1 + x)`` without cancellation near 0.

    Arguments, result and errors as in :func:`exp`.
    """
    return _core.log1p(x, out)


def erf(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Error function, within 2 ULP in float32 and 4 in float64.

    Arguments, result and errors as in :func:`exp`.
    """
    return _core.erf(x, out)
