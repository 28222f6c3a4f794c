"""Dropout: the mask is not stored, backward makes it again from its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import kernels
from ..autograd import Node, record, recording, wrap
from .common import Array, tensor_of

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["dropout"]


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Sets elements to 0 with probability p and divides the others by 1 - p, while training."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout: p must be in [0, 1], got {p}")
    x = tensor_of("dropout", input)
    if not training or p == 0.0:
        return x
    key = kernels.random_key()
    out = kernels.dropout(x._data, p, key=key)
    if recording(x):
        return record(out, _dropout_backward, (x,), (p, key))
    return wrap(out)


def _dropout_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    p, key = node.saved
    return (kernels.dropout_backward(dy, p, key=key),)
