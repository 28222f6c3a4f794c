"""Matrix products and the linear map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .. import kernels
from .._core import DTypeError, ShapeError
from ..autograd import Node, record, recording, wrap
from .common import Array, is_float, operands, tensor_of, unbroadcast
from .shape import reshape, squeeze, unsqueeze

if TYPE_CHECKING:
    from .._core import GemmPack
    from ..tensor import Tensor

__all__ = ["bmm", "dot", "linear", "matmul", "mm", "outer"]


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product a @ b by NumPy's rules: vectors are rows or columns, leading dims
    broadcast."""
    x, y = operands("matmul", a, b)
    xa, ya = x._data, y._data
    if xa.ndim == 0 or ya.ndim == 0:
        raise ShapeError(
            f"matmul: rank 1 or more is expected, got {xa.shape} and {ya.shape}; use * for numbers"
        )
    if xa.shape[-1] != ya.shape[-2 if ya.ndim > 1 else 0]:
        raise ShapeError(
            f"matmul: the last size of a must equal the {'second last' if ya.ndim > 1 else 'only'} "
            f"size of b, got shapes {xa.shape} and {ya.shape}; is a transpose (.T) missing?"
        )
    if not is_float(xa):
        if xa.dtype.kind == "b":
            raise DTypeError("matmul: numbers are expected, got bool; call .float() first")
        return wrap(np.asarray(np.matmul(xa, ya)))
    if xa.ndim == 1:
        product = matmul(unsqueeze(x, 0), y if ya.ndim > 1 else unsqueeze(y, 1))
        return squeeze(product, -2) if ya.ndim > 1 else reshape(product, ())
    if ya.ndim == 1:
        return squeeze(matmul(x, unsqueeze(y, 1)), -1)
    out = _product(xa, ya)
    if recording(x, y):
        return record(out, _matmul_backward, (x, y), (xa, ya), (x, y))
    return wrap(out)


def _product(x: Array, y: Array, trans_x: bool = False, trans_y: bool = False) -> Array:
    """The batched product of arrays of rank 2 or more, whose leading sizes broadcast."""
    if x.shape[:-2] != y.shape[:-2]:
        try:
            lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        except ValueError:
            raise ShapeError(
                f"matmul: leading sizes must broadcast together, got {x.shape} and {y.shape}"
            ) from None
        x = np.broadcast_to(x, (*lead, *x.shape[-2:]))
        y = np.broadcast_to(y, (*lead, *y.shape[-2:]))
    product: Array = kernels.gemm(x, y, trans_a=trans_x, trans_b=trans_y)
    return product


def _matmul_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    wants_x, wants_y = node.inputs
    xa, ya = node.saved
    return (
        None if wants_x is None else unbroadcast(_product(dy, ya, trans_y=True), xa.shape),
        None if wants_y is None else unbroadcast(_product(xa, dy, trans_x=True), ya.shape),
    )


def mm(a: Tensor, b: Tensor) -> Tensor:
    """The product of two matrices."""
    if a.ndim != 2 or b.ndim != 2:
        raise ShapeError(f"mm: two matrices are expected, got shapes {a.shape} and {b.shape}")
    return matmul(a, b)


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """The products of two batches of matrices, (n, p, q) and (n, q, r)."""
    if a.ndim != 3 or b.ndim != 3 or a.shape[0] != b.shape[0]:
        raise ShapeError(
            f"bmm: two equal batches of matrices are expected, got shapes {a.shape} and {b.shape}"
        )
    return matmul(a, b)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of two vectors."""
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError(f"dot: two vectors are expected, got shapes {a.shape} and {b.shape}")
    return matmul(a, b)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """The products of every element of a with every element of b."""
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError(f"outer: two vectors are expected, got shapes {a.shape} and {b.shape}")
    return unsqueeze(a, 1) * unsqueeze(b, 0)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias: (..., in) and (out, in) give (..., out)."""
    try:
        xa, wa = input._data, weight._data
        ba = None if bias is None else bias._data
    except AttributeError:  # name the one that is no tensor
        for value in (input, weight, bias):
            if value is not None:
                tensor_of("linear", value)
        raise
    if xa.ndim != 2:
        return _linear_of_any_rank(input, weight, bias)
    out = kernels.linear(xa, wa, ba)
    if bias is None:
        if recording(input, weight):
            return record(out, _linear_backward, (input, weight), (xa, wa), (input, weight))
    elif recording(weight, bias, input):
        return record(out, _linear_backward, (input, weight, bias), (xa, wa), (input, weight))
    return wrap(out)


def linear_packed(input: Tensor, pack: GemmPack, bias: Tensor | None) -> Tensor:
    """`linear` with weights that `kernels.gemm_pack` has packed; nothing is recorded."""
    return wrap(kernels.linear(input._data, pack, None if bias is None else bias._data))


def _linear_of_any_rank(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    shape = input._data.shape
    if not shape:
        raise ShapeError("linear: input must have rank 1 or more, got a number")
    flat = reshape(input, (math.prod(shape[:-1]), shape[-1]))
    return reshape(linear(flat, weight, bias), (*shape[:-1], weight._data.shape[0]))


def _linear_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    xa, wa = node.saved
    inputs = node.inputs
    need_db = len(inputs) == 3 and inputs[2] is not None
    if inputs[1] is None:
        dx = None if inputs[0] is None else kernels.gemm(dy, wa)
        return dx, None, kernels.sum(dy, 0) if need_db else None
    gradients: tuple[Array | None, ...] = kernels.linear_backward(
        dy, xa, wa, need_dx=inputs[0] is not None, need_db=need_db
    )
    return gradients
