"""Copies, dtypes and devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._core import DTypeError
from ..autograd import Node, record, recording, wrap
from ..device import Device, device
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
    """In another dtype or that of another tensor (between floats the gradient passes), or on a
    device ("cpu"; others raise DeviceError)."""
    for target in targets:
        if isinstance(target, (str, Device)) and not _is_dtype_name(target):
            device = target
        elif hasattr(target, "_data"):
            dtype = target._data.dtype
        elif target is not None:
            dtype = target
    if device is not None:
        _to_device(device)
    wanted = a._data.dtype if dtype is None else dtype_of("to", dtype)
    if wanted == a._data.dtype:
        return clone(a) if copy else a
    out = a._data.astype(wanted)
    if recording(a) and is_float(out):
        return record(out, _cast_backward, (a,), (a._data.dtype,))
    return wrap(out)


def _cast_backward(node: Node, dy: Array) -> tuple[Array | None, ...]:
    return (dy.astype(node.saved[0]),)


def _is_dtype_name(target: Any) -> bool:
    return isinstance(target, str) and target.startswith(("float", "int", "uint", "bool"))


def _to_device(target: Any) -> Device:
    return target if isinstance(target, Device) else device(target)
