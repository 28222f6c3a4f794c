"""Copies, dtypes and devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._core import DTypeError
from ..autograd import Node, record, recording, wrap
from ..device import Device, device, device_of
from ..device_array import to_device
from .common import Array, is_float

if TYPE_CHECKING:
    from ..tensor import Tensor

__all__ = ["clone", "contiguous", "to"]


def dtype_of(op: str, dtype: Any) -> np.dtype[Any]:
    """A dtype that a tensor may have."""
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        raise DTypeError(
            f"{op}: a dtype is expected, got {dtype!r}; one of hl.float32, ..."
        ) from None
    check_dtype(op, wanted)
    return wanted


def check_dtype(op: str, dtype: np.dtype[Any]) -> None:
    """Raises where a tensor cannot hold elements of this type."""
    if dtype.kind not in "fiub" or not dtype.isnative or (dtype.kind == "f" and dtype.itemsize > 8):
        raise DTypeError(
            f"{op}: elements must be floats, ints or bool in native byte order, got {dtype}; "
            "convert the array first (array.astype(np.float32))"
        )


def check_mask(op: str, array: object) -> None:
    """Raises for a masked array, whose mask a tensor cannot keep."""
    if type(array) is not np.ndarray and isinstance(array, np.ma.MaskedArray):
        raise DTypeError(
            f"{op}: the array must have no mask, got a MaskedArray; "
            "array.filled(value) puts a number where it masks"
        )


def clone(a: Tensor) -> Tensor:
    """A copy; the gradient passes through."""
    out = a._data.copy()
    return record(out, _copy_backward, (a,)) if recording(a) else wrap(out)


def _copy_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (dy,)


def contiguous(a: Tensor) -> Tensor:
    """Itself, or a copy in C order where it is not."""
    if a._data.flags.c_contiguous:
        return a
    out = a._data.copy()
    return record(out, _copy_backward, (a,)) if recording(a) else wrap(out)


def to(
    a: Tensor, *targets: Any, dtype: Any = None, device: Any = None, copy: bool = False
) -> Tensor:
    """In another dtype, on another device ("cpu", "cuda:1"), or both as another tensor has them.

    The gradient passes between floats and devices. On a GPU, dtypes are bool, int32, int64, float32
    and float64. Raises DeviceError where there is no such device.
    """
    place: Device | None = None
    for target in targets:
        if isinstance(target, (str, Device)) and not _is_dtype_name(target):
            device = target
        elif hasattr(target, "_data"):
            dtype, place = target._data.dtype, device_of(target._data)
        elif target is not None:
            dtype = target
    if device is not None:
        place = _to_device(device)
    wanted = a._data.dtype if dtype is None else dtype_of("to", dtype)
    here = device_of(a._data)
    stays = place is None or place.index == here.index
    if wanted == a._data.dtype and stays:
        return clone(a) if copy else a
    # Conversion on the GPU, where one of both sides lies there.
    out = a._data
    if wanted != out.dtype and (stays or here.index is not None):
        out = out.astype(wanted)
    if place is not None and not stays:
        out = to_device(out, place.index)
        if wanted != out.dtype:
            out = out.astype(wanted)
    if recording(a) and is_float(out):
        return record(out, _to_backward, (a,), (a._data.dtype, here.index))
    return wrap(out)


def _to_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    dtype, index = node.saved
    return (to_device(dy if dy.dtype == dtype else dy.astype(dtype), index),)


def _is_dtype_name(target: Any) -> bool:
    return isinstance(target, str) and target.startswith(("float", "int", "uint", "bool"))


def _to_device(target: Any) -> Device:
    return target if isinstance(target, Device) else device(target)
