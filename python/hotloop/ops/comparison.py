"""Comparisons and tests: tensors of bool, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import Value, wrap
from .arithmetic import by_numpy
from .common import Operand, operands, tensor_of

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "eq", "ge", "gt", "isclose", "isfinite", "isinf", "isnan", "le", "logical_and", "logical_not",
    "logical_or", "lt", "ne",
]  # fmt: skip


def _compare(op: str, function: Callable[..., Any], a: Operand, b: Operand) -> Tensor:
    if isinstance(a, Value) and isinstance(b, (int, float)):
        return wrap(np.asarray(function(a._data, b)))  # exact for any number
    x, y = operands(op, a, b)
    return wrap(by_numpy(op, function, x._data, y._data))


def eq(a: Operand, b: Operand) -> Tensor:
    """a == b, element by element."""
    return _compare("eq", np.equal, a, b)


def ne(a: Operand, b: Operand) -> Tensor:
    """a != b, element by element."""
    return _compare("ne", np.not_equal, a, b)


def lt(a: Operand, b: Operand) -> Tensor:
    """a < b, element by element."""
    return _compare("lt", np.less, a, b)


def le(a: Operand, b: Operand) -> Tensor:
    """a <= b, element by element."""
    return _compare("le", np.less_equal, a, b)


def gt(a: Operand, b: Operand) -> Tensor:
    """a > b, element by element."""
    return _compare("gt", np.greater, a, b)


def ge(a: Operand, b: Operand) -> Tensor:
    """a >= b, element by element."""
    return _compare("ge", np.greater_equal, a, b)


def logical_and(a: Operand, b: Operand) -> Tensor:
    """Whether both are true (not 0)."""
    return _compare("logical_and", np.logical_and, a, b)


def logical_or(a: Operand, b: Operand) -> Tensor:
    """Whether either is true (not 0)."""
    return _compare("logical_or", np.logical_or, a, b)


def logical_not(a: Tensor) -> Tensor:
    """Whether a is false (0)."""
    return wrap(np.asarray(np.logical_not(a._data)))


def isnan(a: Tensor) -> Tensor:
    """Whether each element is NaN."""
    return wrap(np.asarray(np.isnan(tensor_of("isnan", a)._data)))


def isinf(a: Tensor) -> Tensor:
    """Whether each element is infinite."""
    return wrap(np.asarray(np.isinf(tensor_of("isinf", a)._data)))


def isfinite(a: Tensor) -> Tensor:
    """Whether each element is finite."""
    return wrap(np.asarray(np.isfinite(tensor_of("isfinite", a)._data)))


def isclose(a: Operand, b: Operand, rtol: float = 1e-5, atol: float = 1e-8) -> Tensor:
    """Whether |a - b| <= atol + rtol * |b|."""
    x, y = operands("isclose", a, b)
    return wrap(np.asarray(np.isclose(x._data, y._data, rtol, atol)))
