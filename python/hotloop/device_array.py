"""Arrays on a GPU, used by the tape as NumPy arrays are.

`_core.DeviceArray` holds the memory; here it learns the part of `numpy.ndarray` that tensors need:
views, conversions, and those of NumPy's functions that only make, move or join elements (by
`__array_function__`). What would compute or read elements on the CPU raises DeviceError: nothing
crosses the bus unless it is asked to.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import _core
from ._core import DeviceArray, DeviceError

__all__ = ["DeviceArray", "beside", "empty", "on_gpu", "to_device", "zeros"]

Shape = tuple[int, ...]


def on_gpu(data: Any) -> bool:
    """Whether it is an array on a GPU."""
    return type(data) is DeviceArray


def to_device(data: Any, index: int | None) -> Any:
    """The array on GPU `index`, or on the CPU for None; itself where it lies there."""
    if type(data) is DeviceArray:
        return data._to_host() if index is None else data._to_device(index)
    return data if index is None else _core.cuda_array(np.asarray(data), index)


def beside(data: Any, other: Any) -> Any:
    """`data` where `other` lies: for the small constants of an operation."""
    if type(other) is DeviceArray and type(data) is not DeviceArray:
        return _core.cuda_array(np.asarray(data), other.device_index)
    return data


def empty(shape: Sequence[int], dtype: Any, like: Any) -> Any:
    """Memory without values, where `like` lies."""
    if type(like) is DeviceArray:
        return _core.cuda_empty(tuple(shape), np.dtype(dtype), like.device_index)
    return np.empty(shape, dtype)


def zeros(shape: Sequence[int], dtype: Any, like: Any) -> Any:
    """Zeros, where `like` lies."""
    if type(like) is DeviceArray:
        return _filled(empty(shape, dtype, like), 0)
    return np.zeros(shape, dtype)


def _filled(array: Any, value: float) -> Any:
    array.fill(float(value))
    return array


class _Flags(NamedTuple):
    c_contiguous: bool
    writeable: bool


def _dense(shape: Shape, item: int) -> Shape:
    strides, step = [], item
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _strides_of_shape(a: Any, shape: Shape) -> Shape | None:
    """The strides that show a's elements in the new shape; None where they must be moved."""
    if a.is_dense:
        return _dense(shape, a.itemsize)
    old = [(size, step) for size, step in zip(a.shape, a.strides) if size != 1]
    strides: list[int] = [0] * len(shape)
    i = len(old) - 1
    j = len(shape) - 1
    while j >= 0:
        if shape[j] == 1:
            strides[j] = a.itemsize
            j -= 1
            continue
        # Axes of the old shape that together hold axes j, j - 1, ... of the new one.
        if i < 0:
            return None
        count, step, want = old[i][0], old[i][1], shape[j]
        run = step
        strides[j] = step
        first = j
        while want != count:
            if want < count:
                first -= 1
                if first < 0:
                    return None
                strides[first] = step * want
                want *= shape[first]
            else:
                i -= 1
                if i < 0 or old[i][1] != run * old[i + 1][0]:
                    return None
                run = old[i][1]
                count *= old[i][0]
        i -= 1
        j = first - 1
    return tuple(strides)


def _reshape(a: Any, *shape: Any) -> Any:
    """The same elements in another shape; copies only where it must."""
    sizes = shape[0] if len(shape) == 1 and hasattr(shape[0], "__iter__") else shape
    wanted = tuple(operator.index(size) for size in sizes)
    if wanted.count(-1) == 1:
        known = -math.prod(wanted)
        wanted = tuple(a.size // known if known and size == -1 else size for size in wanted)
    if math.prod(wanted) != a.size or min(wanted, default=0) < 0:
        raise ValueError(f"reshape: {a.size} elements do not fill {wanted}")
    strides = _strides_of_shape(a, wanted)
    if strides is None:
        a = _copy(a)
        strides = _dense(wanted, a.itemsize)
    return a._view(wanted, strides, 0)


def _transpose(a: Any, *axes: Any) -> Any:
    order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
    if order is None or (not axes and a.ndim):
        order = range(a.ndim)[::-1]
    order = [int(axis) % a.ndim for axis in order]
    return a._view([a.shape[i] for i in order], [a.strides[i] for i in order], 0)


def _swapaxes(a: Any, first: int, second: int) -> Any:
    order = list(range(a.ndim))
    order[first], order[second] = order[second], order[first]
    return _transpose(a, order)


def _ghost(a: Any) -> Any:
    """An ndarray of a's layout over no memory, never read: NumPy's rules of views for us."""
    return np.lib.stride_tricks.as_strided(np.empty(1, a.dtype), a.shape, a.strides)


def _as_ghost(a: Any, ghost: Any, seen: Any) -> Any:
    start = ghost.__array_interface__["data"][0]
    return a._view(seen.shape, seen.strides, seen.__array_interface__["data"][0] - start)


_PLAIN = (int, np.integer, slice, type(None), type(Ellipsis))


def _getitem(a: Any, index: Any) -> Any:
    parts = index if isinstance(index, tuple) else (index,)
    if any(not isinstance(part, _PLAIN) or isinstance(part, bool) for part in parts):
        raise DeviceError(
            "getitem: ints and slices are expected as index on a GPU, got an array, a list or a "
            'mask; move the tensor: .to("cpu")'
        )
    ghost = _ghost(a)
    return _as_ghost(a, ghost, ghost[(*parts, ...) if Ellipsis not in parts else parts])


def _setitem(a: Any, index: Any, value: Any) -> None:
    _copyto(_getitem(a, index), value)


def _copy(a: Any, order: str = "C") -> Any:
    return a._converted(a.dtype)


def _astype(a: Any, dtype: Any, copy: bool = True) -> Any:
    wanted = np.dtype(dtype)
    return a if wanted == a.dtype and not copy else a._converted(wanted)


def _no_numpy(a: Any, *_: Any, **__: Any) -> Any:
    raise DeviceError(
        f"numpy: an array on the CPU is expected, got one on cuda:{a.device_index}; "
        'move it first: .to("cpu")'
    )


def _broadcast_to(a: Any, shape: Any, subok: bool = False) -> Any:
    ghost = _ghost(a)
    return _as_ghost(a, ghost, np.broadcast_to(ghost, shape))


def _copyto(to: Any, source: Any, casting: str = "same_kind", where: Any = True) -> None:
    if where is not True:
        _no_numpy(to)
    if type(to) is not DeviceArray:  # down from the GPU
        np.copyto(to, source._to_host(), casting=casting)  # type: ignore[arg-type]
        return
    if type(source) is not DeviceArray:
        array = np.asarray(source)
        if array.ndim == 0:
            to.fill(float(array))
            return
        source = _core.cuda_array(array.astype(to.dtype, copy=False), to.device_index)
    to._assign(_broadcast_to(source, to.shape))


def _concatenate(arrays: Sequence[Any], axis: int = 0) -> Any:
    first = arrays[0]
    if any(type(array) is not DeviceArray for array in arrays):
        raise DeviceError(
            "cat: all tensors must lie on one device, got one on the CPU; move it (.to)"
        )
    rest = [(*a.shape[:axis], *a.shape[axis + 1 :]) for a in arrays]
    if any(shape != rest[0] for shape in rest) or not first.ndim:
        raise ValueError("shapes must agree except along the axis")
    sizes = [array.shape[axis] for array in arrays]
    shape = (*first.shape[:axis], sum(sizes), *first.shape[axis + 1 :])
    out = empty(shape, first.dtype, first)
    begin = 0
    for array, size in zip(arrays, sizes):
        _setitem(out, (slice(None),) * axis + (slice(begin, begin + size),), array)
        begin += size
    return out


def _split(a: Any, ends: Any, axis: int = 0) -> list[Any]:
    edges = [0, *(int(end) for end in ends), a.shape[axis]]
    lead = (slice(None),) * axis
    return [_getitem(a, (*lead, slice(i, j))) for i, j in itertools.pairwise(edges)]


def _flip(a: Any, axis: Any = None) -> Any:
    axes = range(a.ndim) if axis is None else np.atleast_1d(axis)
    flipped = {int(each) % a.ndim for each in axes}
    back, whole = slice(None, None, -1), slice(None)
    return _getitem(a, tuple(back if i in flipped else whole for i in range(a.ndim)))


def _seen(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy's that only gives another view."""

    def view(a: Any, *args: Any, **kwargs: Any) -> Any:
        ghost = _ghost(a)
        return _as_ghost(a, ghost, function(ghost, *args, **kwargs))

    return view


def _like(value: float | None) -> Callable[..., Any]:
    def make(a: Any, fill: Any = None, dtype: Any = None, **_: Any) -> Any:
        if value is not None and fill is not None:  # zeros_like(a, dtype)
            dtype, fill = fill, None
        out = empty(a.shape, dtype or a.dtype, a)
        wanted = value if fill is None else fill
        return out if wanted is None else _filled(out, wanted)

    return make


def _shares(a: Any, b: Any, max_work: Any = None) -> bool:
    return type(a) is DeviceArray and type(b) is DeviceArray and a._shares(b)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.zeros_like: _like(0), np.ones_like: _like(1), np.full_like: _like(None),
    np.empty_like: _like(None), np.copyto: _copyto, np.broadcast_to: _broadcast_to,
    np.concatenate: _concatenate, np.split: _split, np.flip: _flip,
    np.may_share_memory: _shares, np.shares_memory: _shares, np.moveaxis: _seen(np.moveaxis),
    np.expand_dims: _seen(np.expand_dims), np.transpose: _transpose, np.reshape: _reshape,
    np.swapaxes: _swapaxes, np.shape: lambda a: a.shape, np.ndim: lambda a: a.ndim,
    np.size: lambda a: a.size, np.copy: _copy,
}  # fmt: skip


def _array_function(
    a: Any, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    known = _FUNCTIONS.get(function)
    if known is None:
        raise DeviceError(
            f"{function.__name__}: arrays on the CPU are expected, for this function of NumPy has "
            f'no CUDA kernel, got one on cuda:{a.device_index}; move it: .to("cpu")'
        )
    return known(*args, **kwargs)


def _array_ufunc(a: Any, ufunc: Any, method: str, *inputs: Any, **_: Any) -> Any:
    where = next(x.device_index for x in (*inputs, a) if type(x) is DeviceArray)
    raise DeviceError(
        f"{ufunc.__name__}: arrays on the CPU are expected, for this operation has no CUDA kernel, "
        f'got one on cuda:{where}; move it: .to("cpu")'
    )


def _len(a: Any) -> int:
    if a.ndim == 0:
        raise TypeError("len: an array of rank 1 or more is expected, got a number")
    return int(a.shape[0])


def _iterate(a: Any) -> Iterator[Any]:
    return (_getitem(a, i) for i in range(_len(a)))


def _repr(a: Any) -> str:
    return f"DeviceArray(shape={a.shape}, dtype={a.dtype}, device='cuda:{a.device_index}')"


_METHODS: dict[str, Any] = {
    "reshape": _reshape, "transpose": _transpose, "swapaxes": _swapaxes, "copy": _copy,
    "astype": _astype, "item": lambda a: a._to_host().item(), "__iter__": _iterate,
    "tolist": lambda a: a._to_host().tolist(), "__getitem__": _getitem, "__setitem__": _setitem,
    "__len__": _len, "__array__": _no_numpy, "__array_function__": _array_function,
    "__array_ufunc__": _array_ufunc, "__repr__": _repr,
    "__bool__": lambda a: bool(a.item()), "__float__": lambda a: float(a.item()),
    "__int__": lambda a: int(a.item()), "T": property(_transpose),
    "flags": property(lambda a: _Flags(a.is_dense, not a.read_only)),
    # As with ndarrays: whose memory a view shows.
    "base": property(lambda a: a if a._is_shared else None),
}  # fmt: skip

for _name, _method in _METHODS.items():
    setattr(DeviceArray, _name, _method)
