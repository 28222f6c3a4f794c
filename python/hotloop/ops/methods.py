"""The operations as methods: PyTorch's spelling, no call in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import activation, arithmetic, comparison, convert, inplace, product, reduction, shape
from .common import Operand

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["Methods"]


def _radd(a: Tensor, other: Operand) -> Tensor:
    return arithmetic.add(a, other)  # the sum is the same, and numbers are faster there


def _rsub(a: Tensor, other: Operand) -> Tensor:
    return arithmetic.sub(other, a)


def _rmul(a: Tensor, other: Operand) -> Tensor:
    return arithmetic.mul(a, other)


def _rdiv(a: Tensor, other: Operand) -> Tensor:
    return arithmetic.div(other, a)


def _rpow(a: Tensor, other: Operand) -> Tensor:
    return arithmetic.pow(other, a)


def _rmatmul(a: Tensor, other: Tensor) -> Tensor:
    return product.matmul(other, a)


def _where(a: Tensor, condition: Tensor, other: Operand) -> Tensor:
    """a where condition holds, other elsewhere."""
    return arithmetic.where(condition, a, other)


class Methods:
    """What Tensor can do, one line for each operation."""

    __slots__ = ()

    __add__, __radd__, __iadd__ = arithmetic.add, _radd, inplace.iadd
    __sub__, __rsub__, __isub__ = arithmetic.sub, _rsub, inplace.isub
    __mul__, __rmul__, __imul__ = arithmetic.mul, _rmul, inplace.imul
    __truediv__, __rtruediv__, __itruediv__ = arithmetic.div, _rdiv, inplace.itruediv
    __pow__, __rpow__ = arithmetic.pow, _rpow
    __matmul__, __rmatmul__ = product.matmul, _rmatmul
    __neg__, __abs__ = arithmetic.neg, arithmetic.abs
    __eq__, __ne__ = comparison.eq, comparison.ne  # type: ignore[assignment]
    __lt__, __le__ = comparison.lt, comparison.le
    __gt__, __ge__ = comparison.gt, comparison.ge
    __and__, __or__ = comparison.logical_and, comparison.logical_or
    __invert__ = comparison.logical_not
    __getitem__, __setitem__ = shape.getitem, inplace.setitem
    __hash__ = object.__hash__

    # arithmetic
    abs, neg, sign = arithmetic.abs, arithmetic.neg, arithmetic.sign
    add, sub, mul, div = arithmetic.add, arithmetic.sub, arithmetic.mul, arithmetic.div
    pow, clamp, clip = arithmetic.pow, arithmetic.clamp, arithmetic.clip
    maximum, minimum = arithmetic.maximum, arithmetic.minimum
    eq, ne, lt = comparison.eq, comparison.ne, comparison.lt
    le, gt, ge = comparison.le, comparison.gt, comparison.ge
    isnan, isinf, isfinite = comparison.isnan, comparison.isinf, comparison.isfinite
    logical_and, logical_or = comparison.logical_and, comparison.logical_or
    logical_not = comparison.logical_not

    # functions of one element
    exp, log, sqrt, rsqrt = activation.exp, activation.log, activation.sqrt, activation.rsqrt
    sin, cos, square = activation.sin, activation.cos, activation.square
    expm1, log1p, erf = activation.expm1, activation.log1p, activation.erf
    reciprocal = activation.reciprocal
    where = _where
    relu, sigmoid, tanh = activation.relu, activation.sigmoid, activation.tanh

    # products
    matmul, mm, bmm, dot = product.matmul, product.mm, product.bmm, product.dot

    # reductions
    sum, mean, prod, norm = reduction.sum, reduction.mean, reduction.prod, reduction.norm
    max, min, all, any = reduction.max, reduction.min, reduction.all, reduction.any
    argmax, argmin = reduction.argmax, reduction.argmin
    amax, amin, cumsum = reduction.amax, reduction.amin, reduction.cumsum
    var, std, logsumexp = reduction.var, reduction.std, reduction.logsumexp
    softmax, log_softmax = reduction.softmax, reduction.log_softmax

    # moves
    reshape, view, flatten = shape.reshape, shape.reshape, shape.flatten
    unflatten, permute, transpose = shape.unflatten, shape.permute, shape.transpose
    swapaxes, movedim, t = shape.swapaxes, shape.movedim, shape.t
    squeeze, unsqueeze, flip = shape.squeeze, shape.unsqueeze, shape.flip
    expand, broadcast_to = shape.expand, shape.broadcast_to
    split, chunk = shape.split, shape.chunk

    # copies
    clone, contiguous, to = convert.clone, convert.contiguous, convert.to

    # changes in place
    add_, sub_, mul_, div_ = inplace.add_, inplace.sub_, inplace.mul_, inplace.div_
    neg_, clamp_, copy_, fill_ = inplace.neg_, inplace.clamp_, inplace.copy_, inplace.fill_
    zero_, uniform_, normal_ = inplace.zero_, inplace.uniform_, inplace.normal_
    detach_, bernoulli_ = inplace.detach_, inplace.bernoulli_
