"""Embedding: rows of a table by index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import kernels
from ..autograd import Node, Value, mark_written, record, recording, wrap
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

    With max_norm, rows that are looked up and longer (in the norm of order norm_type) are first
    shortened to it, in place. Sparse gradients are not supported.
    """
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
    if max_norm is not None and indices.size:
        _shorten(w, indices, max_norm, norm_type)
    out = kernels.embedding(indices, w._data)
    if not recording(w):
        return wrap(out)
    saved = (indices, rows, padding_idx, scale_grad_by_freq)
    guard = (input,) if isinstance(input, Value) else ()
    return record(out, _embedding_backward, (w,), saved, guard)


def _shorten(weight: Tensor, indices: Array, max_norm: float, norm_type: float) -> None:
    """Rows longer than max_norm become that long; no gradient flows through it."""
    named = np.unique(indices)
    rows = kernels.embedding(named, weight._data)  # checks the indices too
    lengths = kernels.norm(rows, 1, ord=norm_type)
    long = lengths > max_norm
    if long.any():
        factors = (max_norm / (lengths[long] + 1e-7)).astype(rows.dtype)
        weight._data[named[long]] = rows[long] * factors[:, None]
        mark_written(weight)


def _embedding_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    indices, rows, padding, by_frequency = node.saved
    return (
        kernels.embedding_backward(
            dy, indices, rows, padding_idx=padding, scale_grad_by_freq=by_frequency
        ),
    )
