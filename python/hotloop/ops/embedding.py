"""Embedding: rows of a table by index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import kernels
from ..autograd import Node, Value, record, recording, wrap
from .common import Array, tensor_of

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["embedding"]


def embedding(
    input: Tensor | Array,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of weight that input names; the row padding_idx gets no gradient.

    max_norm and sparse gradients are not supported.
    """
    if max_norm is not None:
        raise ValueError(
            f"embedding: max_norm must be None, got {max_norm}; rescale the weight under no_grad"
        )
    if sparse:
        raise ValueError("embedding: sparse must be False, got True; gradients are dense")
    w = tensor_of("embedding", weight)
    indices = input._data if isinstance(input, Value) else np.asarray(input)
    rows = w._data.shape[0] if w._data.ndim else 0
    if padding_idx is not None and not -rows <= padding_idx < rows:
        raise ValueError(
            f"embedding: padding_idx must be in [{-rows}, {rows - 1}] for a table of {rows} rows, "
            f"got {padding_idx}"
        )
    out = kernels.embedding(indices, w._data)
    if not recording(w):
        return wrap(out)
    saved = (indices, rows, padding_idx, scale_grad_by_freq)
    guard = (input,) if isinstance(input, Value) else ()
    return record(out, _embedding_backward, (w,), saved, guard)


def _embedding_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    indices, rows, padding, by_frequency = node.saved
    return (
        kernels.embedding_backward(
            dy, indices, rows, padding_idx=padding, scale_grad_by_freq=by_frequency
        ),
    )
