"""Views, joins and indexing: operations that move elements and compute nothing."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._core import DTypeError, ShapeError
from ..autograd import Node, Value, record, recording, wrap
from ..device_array import zeros
from .common import Array, axis_of, sizes_of, unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = [
    "broadcast_to", "cat", "chunk", "concat", "expand", "flatten", "flip", "getitem", "movedim",
    "permute", "reshape", "split", "squeeze", "stack", "swapaxes", "t", "transpose", "unflatten",
    "unsqueeze",
]  # fmt: skip


def _view(a: Tensor, data: Array, backward: Any, saved: tuple[Any, ...]) -> Tensor:
    """A tensor over (part of) a's memory; writes into one are known to the other."""
    out = record(data, backward, (a,), saved) if recording(a) else wrap(data)
    out._version = a._version
    return out


def reshape(a: Tensor, *shape: int | Sequence[int]) -> Tensor:
    """The same elements in another shape, one size may be -1; copies only where it must."""
    data = a._data
    sizes = sizes_of("reshape", shape)
    try:
        out = data.reshape(sizes)
    except ValueError:
        raise ShapeError(
            f"reshape: {data.size} elements of shape {data.shape} must fill the new shape, "
            f"got {sizes}"
        ) from None
    return _view(a, out, _reshape_backward, (data.shape,))


def _reshape_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (dy.reshape(node.saved[0]),)


def flatten(a: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The dims from start_dim to end_dim as one."""
    data = a._data
    if data.ndim == 0:
        return reshape(a, 1)
    first = axis_of("flatten", start_dim, data.ndim)
    last = axis_of("flatten", end_dim, data.ndim)
    if first > last:
        raise ShapeError(
            f"flatten: start_dim must not come after end_dim, got {start_dim} and {end_dim}"
        )
    if first == last:
        return a
    shape = data.shape
    joined = math.prod(shape[first : last + 1])
    out = data.reshape((*shape[:first], joined, *shape[last + 1 :]))
    return _view(a, out, _reshape_backward, (shape,))


def unflatten(a: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One dim split into several."""
    axis = axis_of("unflatten", dim, a._data.ndim)
    return reshape(a, (*a.shape[:axis], *sizes, *a.shape[axis + 1 :]))


def permute(a: Tensor, *dims: int | Sequence[int]) -> Tensor:
    """The dims in another order."""
    data = a._data
    order = sizes_of("permute", dims)
    if len(order) != data.ndim:
        raise ShapeError(f"permute: every dim of rank {data.ndim} must be named once, got {order}")
    axes = tuple(axis_of("permute", dim, data.ndim) for dim in order)
    if len(set(axes)) != data.ndim:
        raise ShapeError(f"permute: every dim of rank {data.ndim} must be named once, got {order}")
    return _view(a, data.transpose(axes), _permute_backward, (axes,))


def _permute_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (dy.transpose(np.argsort(node.saved[0])),)


def transpose(a: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dims swapped."""
    data = a._data
    if data.ndim == 0:
        return a
    first = axis_of("transpose", dim0, data.ndim)
    second = axis_of("transpose", dim1, data.ndim)
    return _view(a, data.swapaxes(first, second), _transpose_backward, (first, second))


def _transpose_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (dy.swapaxes(*node.saved),)


swapaxes = transpose


def movedim(a: Tensor, source: int, destination: int) -> Tensor:
    """One dim moved to another place."""
    ndim = a._data.ndim
    start, end = axis_of("movedim", source, ndim), axis_of("movedim", destination, ndim)
    order = [axis for axis in range(ndim) if axis != start]
    order.insert(end, start)
    return permute(a, order)


def t(a: Tensor) -> Tensor:
    """The transpose of a matrix (of a vector or number: itself)."""
    if a._data.ndim > 2:
        raise ShapeError(f"t: rank 2 or less is expected, got shape {a.shape}; use transpose")
    return transpose(a, 0, 1) if a._data.ndim == 2 else a


def squeeze(a: Tensor, dim: int | None = None) -> Tensor:
    """Without the dims of size 1, or without `dim` if its size is 1."""
    shape = a._data.shape
    if dim is None:
        kept = tuple(size for size in shape if size != 1)
    else:
        axis = axis_of("squeeze", dim, len(shape))
        if not shape or shape[axis] != 1:
            return a
        kept = shape[:axis] + shape[axis + 1 :]
    return _view(a, a._data.reshape(kept), _reshape_backward, (shape,))


def unsqueeze(a: Tensor, dim: int) -> Tensor:
    """With a new dim of size 1."""
    shape = a._data.shape
    axis = axis_of("unsqueeze", dim, len(shape) + 1)
    out = a._data.reshape((*shape[:axis], 1, *shape[axis:]))
    return _view(a, out, _reshape_backward, (shape,))


def expand(a: Tensor, *shape: int | Sequence[int]) -> Tensor:
    """Dims of size 1 repeated to `shape`, -1 keeps a size; a read-only view."""
    data = a._data
    sizes = sizes_of("expand", shape)
    lead = len(sizes) - data.ndim
    wanted = tuple(
        data.shape[i - lead] if size == -1 and i >= lead else size for i, size in enumerate(sizes)
    )
    try:
        out = np.broadcast_to(data, wanted)
    except ValueError:
        raise ShapeError(f"expand: {data.shape} must broadcast to the shape, got {sizes}") from None
    return _view(a, out, _expand_backward, (data.shape,))


broadcast_to = expand


def _expand_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (unbroadcast(dy, node.saved[0]),)


def flip(a: Tensor, *dims: int | Sequence[int]) -> Tensor:
    """A copy with the elements of `dims` in reverse order."""
    axes = tuple(axis_of("flip", dim, a._data.ndim) for dim in sizes_of("flip", dims))
    out = np.flip(a._data, axes).copy()
    return record(out, _flip_backward, (a,), (axes,)) if recording(a) else wrap(out)


def _flip_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (np.flip(dy, node.saved[0]),)


def _joinable(op: str, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    parts = tuple(tensors)
    if not parts:
        raise ShapeError(f"{op}: at least one tensor is expected, got none")
    for part in parts:
        if not isinstance(part, Value):
            raise TypeError(f"{op}: a sequence of Tensors is expected, got {type(part).__name__}")
        if part._data.dtype != parts[0]._data.dtype:
            raise DTypeError(
                f"{op}: all tensors must have the same dtype, got {parts[0]._data.dtype} and "
                f"{part._data.dtype}; convert one of them (.to(dtype))"
            )
    return parts


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along dim; all other sizes must agree."""
    parts = _joinable("cat", tensors)
    axis = axis_of("cat", dim, parts[0]._data.ndim)
    try:
        out = np.concatenate([part._data for part in parts], axis)
    except ValueError:
        shapes = ", ".join(str(part._data.shape) for part in parts)
        raise ShapeError(
            f"cat: shapes must have rank 1 or more and agree except in dim {dim}, got {shapes}"
        ) from None
    if recording(*parts):
        ends = np.cumsum([part._data.shape[axis] for part in parts])[:-1]
        return record(out, _cat_backward, parts, (ends, axis))
    return wrap(out)


def _cat_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    ends, axis = node.saved
    return tuple(np.split(dy, ends, axis))


concat = cat


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors side by side along a new dim; all shapes must agree."""
    parts = _joinable("stack", tensors)
    if builtins.any(part._data.shape != parts[0]._data.shape for part in parts):
        shapes = ", ".join(str(part._data.shape) for part in parts)
        raise ShapeError(f"stack: all shapes must agree, got {shapes}")
    return cat([unsqueeze(part, dim) for part in parts], dim)


def split(a: Tensor, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of pieces of that size along dim (the last may be smaller), or of the given sizes."""
    axis = axis_of("split", dim, a._data.ndim)
    length = a._data.shape[axis]
    if isinstance(split_size, int):
        if split_size <= 0:
            raise ValueError(f"split: split_size must be positive, got {split_size}")
        starts = range(0, builtins.max(length, 1), split_size)
        sizes = [builtins.min(split_size, length - start) for start in starts]
    else:
        sizes = list(split_size)
        if builtins.sum(sizes) != length or builtins.min(sizes, default=0) < 0:
            raise ShapeError(f"split: sizes must add up to {length}, got {tuple(sizes)}")
    pieces, begin = [], 0
    for size in sizes:
        index = (slice(None),) * axis + (slice(begin, begin + size),)
        pieces.append(getitem(a, index))
        begin += size
    return tuple(pieces)


def chunk(a: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of at most `chunks` pieces of equal size along dim (the last may be smaller)."""
    if chunks <= 0:
        raise ValueError(f"chunk: chunks must be positive, got {chunks}")
    length = a._data.shape[axis_of("chunk", dim, a._data.ndim)]
    return split(a, builtins.max(1, -(-length // chunks)), dim)


def plain_index(index: Any) -> Any:
    """An index with arrays in the place of tensors."""
    if isinstance(index, Value):
        return index._data
    if isinstance(index, tuple):
        return tuple(part._data if isinstance(part, Value) else part for part in index)
    return index


def getitem(a: Tensor, index: Any) -> Tensor:
    """a[index] by NumPy's rules: a view for ints and slices, a copy for arrays and masks."""
    index = plain_index(index)
    data = a._data
    out = data[index]
    if isinstance(out, np.generic):  # a number: as a view of no dims
        out = data[(*index, ...) if isinstance(index, tuple) else (index, ...)]
    if np.may_share_memory(out, data):
        return _view(a, out, _getitem_backward, (data.shape, index))
    if recording(a):
        return record(out, _getitem_backward, (a,), (data.shape, index))
    return wrap(out)


def _getitem_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    shape, index = node.saved
    dx = zeros(shape, dy.dtype, dy)
    parts = index if isinstance(index, tuple) else (index,)
    if builtins.any(isinstance(part, (list, np.ndarray)) for part in parts):
        np.add.at(dx, index, dy)  # an element may have been taken several times
    else:
        dx[index] = dy
    return (dx,)
