"""Embedding: rows of a table by index, and the gradient of the table."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from hotloop import _core

__all__ = ["embedding", "embedding_backward"]


def embedding(
    indices: npt.NDArray[Any], weight: npt.NDArray[Any], *, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """y[i] = weight[indices[i]].

    Args:
        indices: int64 or int32, any shape and strides.
        weight: the table (rows, width), float32 or float64; dense rows are read as they lie.
        out: the destination, weight's dtype, of the indices' shape and (width,); other strides than
            C order go through scratch.

    Returns:
        ``out``, or a new array.

    Raises:
        IndexError: an index outside [0, rows), with its position.
        ShapeError: a table without 2 axes, or out of another shape.
        DTypeError: indices that are no integers, a table that is no float array.
        OutputError: out is read-only or overlaps the table.
    """
    return _core.embedding(indices, weight, out)


def embedding_backward(
    dy: npt.NDArray[Any],
    indices: npt.NDArray[Any],
    num_embeddings: int,
    *,
    padding_idx: int | None = None,
    scale_grad_by_freq: bool = False,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """The gradient of the table of `embedding`: dweight[row] = sum of dy[i] with indices[i] == row.

    Equal indices are summed in rising order of their positions, whatever the number of threads.

    Args:
        dy: float32 or float64, of the indices' shape and (width,).
        indices: what the forward kernel was given.
        num_embeddings: rows of the table.
        padding_idx: a row that gets no gradient; negative ones count from the end.
        scale_grad_by_freq: divide each row's sum by how often its index occurs.
        out: the destination, dy's dtype, (num_embeddings, width).

    Returns:
        dweight: ``out``, or a new array.

    Raises:
        IndexError: an index outside [0, num_embeddings), with its position.
        ShapeError: dy that does not fit the indices, or out of another shape.
        DTypeError: indices that are no integers, dy that is no float array.
        OutputError: out is read-only or overlaps dy.
        ValueError: padding_idx outside of the table.
    """
    return _core.embedding_backward(
        dy, indices, num_embeddings, padding_idx, scale_grad_by_freq, out
    )
