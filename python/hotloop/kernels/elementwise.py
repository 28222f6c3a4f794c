"""Arithmetic, elementary functions and comparisons, element by element, with ``out=``.

Arrays are float32 or float64, of any shape and strides; several must share their dtype and
broadcast as NumPy's do. One operand of the binary functions may be a Python number, which takes the
array's dtype. The result's axes lie in memory as those of the operands do; ``out`` may be an
operand itself. All raise ``DTypeError`` for other or different dtypes, ``ShapeError`` for shapes
that do not broadcast, ``OutputError`` for an ``out`` that is read-only or partly overlaps an
operand. The functions stand in three tables, which the tests read as well.
"""

from __future__ import annotations

from math import inf
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hotloop import _core

__all__ = [
    "abs", "add", "clip", "cos", "div", "eq", "erf", "exp", "expm1", "ge", "gt", "le", "log",
    "log1p", "lt", "maximum", "minimum", "mul", "ne", "neg", "pow", "reciprocal", "rsqrt", "sign",
    "sin", "sqrt", "square", "sub", "where",
]  # fmt: skip

Array = npt.NDArray[Any]
Operand = Array | float


class Unary(Protocol):
    """A function of one array."""

    __name__: str

    def __call__(self, x: Array, *, out: Array | None = None) -> Array: ...


class Binary(Protocol):
    """A function of two arrays, one of which may be a number."""

    __name__: str

    def __call__(self, a: Operand, b: Operand, *, out: Array | None = None) -> Array: ...


_UNARY_TEXT = """{}.

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
_BINARY_TEXT = """{}.

    Args:
        a: float32 or float64, any shape and strides, or a Python number.
        b: Likewise, of the same dtype; the shapes broadcast. At most one is a number.
        out: Where to write the result, {}.

    Returns:
        ``out``, or a fresh array whose axes lie in memory as the operands' do.

    Raises:
        DTypeError: If the dtypes differ or are neither float32 nor float64.
        ShapeError: If the shapes do not broadcast, or out does not have the shape of the result.
        OutputError: If out is read-only or {}.
    """


def _named(function: Any, name: str, text: str) -> Any:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = text
    return function


def _unary(name: str, text: str) -> Unary:
    kernel = getattr(_core, name)

    def function(x: Array, *, out: Array | None = None) -> Array:
        return kernel(x, out)

    return _named(function, name, _UNARY_TEXT.format(text))


def _binary(name: str, text: str, compares: bool = False) -> Binary:
    kernel = getattr(_core, name)

    def function(a: Operand, b: Operand, *, out: Array | None = None) -> Array:
        return kernel(a, b, out)

    out = "any strides; may be a or b itself", "partly overlaps an operand"
    if compares:
        text, out = f"Whether {text}: bool", ("bool, any strides", "overlaps an operand")
    return _named(function, name, _BINARY_TEXT.format(text, *out))


_ULP = "within 2 ULP in float32 and 4 in float64"

neg = _unary("neg", "``-x``")
abs = _unary("abs", "``|x|``")
sign = _unary("sign", "-1, 0 or 1; 0 for NaN, as in PyTorch")
square = _unary("square", "``x * x``")
reciprocal = _unary("reciprocal", "``1 / x``")
sqrt = _unary("sqrt", "Square root, correctly rounded; NaN below 0")
rsqrt = _unary("rsqrt", "``1 / sqrt(x)``, both correctly rounded; NaN below 0")
exp = _unary("exp", f"Exponential, {_ULP}")
expm1 = _unary("expm1", f"``exp(x) - 1`` without cancellation near 0, {_ULP}")
log = _unary("log", f"Natural logarithm; ``-inf`` at 0, NaN below; {_ULP}")
log1p = _unary("log1p", f"``log(1 + x)`` without cancellation near 0, {_ULP}")
sin = _unary("sin", "Sine of any argument, within 1 ULP; NaN at the infinities")
cos = _unary("cos", "Cosine of any argument, within 1 ULP; NaN at the infinities")
erf = _unary("erf", f"Error function, {_ULP}")

add = _binary("add", "``a + b``")
sub = _binary("sub", "``a - b``")
mul = _binary("mul", "``a * b``")
div = _binary("div", "``a / b``")
maximum = _binary("maximum", "The larger one; NaN if either is NaN")
minimum = _binary("minimum", "The smaller one; NaN if either is NaN")
pow = _binary(
    "pow", "``a ** b``, within 1 ULP in float32 and 2 in float64; special cases as in C99"
)

eq = _binary("eq", "``a == b``", compares=True)
ne = _binary("ne", "``a != b``", compares=True)
lt = _binary("lt", "``a < b``", compares=True)
le = _binary("le", "``a <= b``", compares=True)
gt = _binary("gt", "``a > b``", compares=True)
ge = _binary("ge", "``a >= b``", compares=True)


def where(
    condition: npt.NDArray[np.bool_], a: Operand, b: Operand, *, out: Array | None = None
) -> Array:
    """``a`` where the condition holds, ``b`` elsewhere; all three broadcast.

    Args:
        condition: bool, any shape and strides.
        a: float32 or float64, any shape and strides, or a Python number.
        b: Likewise, of the same dtype. At most one is a number.
        out: Where to write the result, any strides; may be a or b itself.

    Returns:
        ``out``, or a fresh array whose axes lie in memory as those of a and b do.

    Raises:
        DTypeError: If the condition is not bool, or the dtypes of a and b differ or are no floats.
        ShapeError: If the shapes do not broadcast, or out does not have the shape of the result.
        OutputError: If out is read-only or partly overlaps an operand.
    """
    return _core.where(condition, a, b, out)


def clip(
    x: Operand, low: Operand | None, high: Operand | None, *, out: Array | None = None
) -> Array:
    """``minimum(maximum(x, low), high)``: NaN if one of them is NaN, high where low is above it.

    Args:
        x: float32 or float64, any shape and strides.
        low: The least value: an array of the same dtype that broadcasts, a Python number, or None
            for no bound.
        high: The greatest value, likewise.
        out: Where to write the result, any strides; may be an operand itself.

    Returns:
        ``out``, or a fresh array whose axes lie in memory as the operands' do.

    Raises:
        DTypeError: If the dtypes differ or are neither float32 nor float64.
        ShapeError: If the shapes do not broadcast, or out does not have the shape of the result.
        OutputError: If out is read-only or partly overlaps an operand.
    """
    low, high = -inf if low is None else low, inf if high is None else high
    return _core.clip(x, low, high, out)
