"""Comparisons and tests: tensors of bool, without gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from ..autograd import Value, wrap
from .arithmetic import by_numpy
from .common import Operand, is_float, operands, tensor_of

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "eq", "ge", "gt", "isclose", "isfinite", "isinf", "isnan", "le", "logical_and", "logical_not",
    "logical_or", "lt", "ne",
]  # fmt: skip


def _compare(op: str, function: Callable[..., Any], a: Operand, b: Operand) -> Tensor:
    if b is None:  # `tensor == None` is False, as for any object
        return NotImplemented
    if isinstance(a, Value) and isinstance(b, (int, float)):
        return wrap(np.asarray(function(a._data, b)))  # exact for any number
    x, y = operands(op, a, b)
    return wrap(by_numpy(op, function, x._data, y._data))


def _order(
    op: str, kernel: Callable[..., Any], function: Callable[..., Any]
) -> Callable[[Operand, Operand], Tensor]:
    """The comparison `op`: the kernel for floats, NumPy's function for the others."""

    def compare(a: Operand, b: Operand) -> Tensor:
        if isinstance(a, Value) and is_float(a._data):
            if isinstance(b, Value):
                if is_float(b._data) and a._data.dtype == b._data.dtype:
                    return wrap(kernel(a._data, b._data))
            elif type(b) is float or (type(b) is int and a.is_cuda):
                return wrap(kernel(a._data, b))
        return _compare(op, function, a, b)

    compare.__name__ = compare.__qualname__ = op
    compare.__doc__ = f"Whether a {_SIGNS[op]} b, element by element."
    return compare


_SIGNS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

eq = _order("eq", kernels.eq, np.equal)
ne = _order("ne", kernels.ne, np.not_equal)
lt = _order("lt", kernels.lt, np.less)
le = _order("le", kernels.le, np.less_equal)
gt = _order("gt", kernels.gt, np.greater)
ge = _order("ge", kernels.ge, np.greater_equal)


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
