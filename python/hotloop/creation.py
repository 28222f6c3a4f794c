"""Tensors from data, or filled with one value. The default dtype is float32."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import _core
from ._core import DTypeError, ShapeError
from .autograd import wrap
from .device import Device
from .device import device as find_device
from .device_array import DeviceArray, to_device
from .ops.common import Array, Scalar, sizes_of
from .ops.convert import check_dtype, check_mask, dtype_of
from .tensor import Tensor, as_array

__all__ = [
    "arange", "as_tensor", "bool", "empty", "empty_like", "eye", "float32", "float64",
    "from_dlpack", "from_numpy", "full", "full_like", "int32", "int64", "is_tensor", "linspace",
    "ones", "ones_like", "tensor", "uint8", "zeros", "zeros_like",
]  # fmt: skip

float32, float64 = np.dtype(np.float32), np.dtype(np.float64)
int32, int64, uint8 = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.uint8)
bool = np.dtype(np.bool_)

_Size = int | Sequence[int]
_Device = str | Device | None


def _finish(array: Array, device: _Device, requires_grad: builtins.bool) -> Tensor:
    if device is not None:
        array = to_device(array, find_device(device).index)
    return wrap(array).requires_grad_(requires_grad) if requires_grad else wrap(array)


def tensor(
    data: Any, dtype: Any = None, device: _Device = None, requires_grad: builtins.bool = False
) -> Tensor:
    """A copy of numbers, lists or an array.

    Python floats become float32 and ints int64; arrays keep their dtype.
    """
    array = as_array("tensor", data, None if dtype is None else dtype_of("tensor", dtype))
    copy = array.copy() if type(array) is DeviceArray else np.array(array)
    return _finish(copy, device, requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: _Device = None) -> Tensor:
    """Like `tensor`, but without a copy where none is needed."""
    if isinstance(data, Tensor):
        return data.to(dtype=dtype, device=device)
    array = as_array("as_tensor", data, None if dtype is None else dtype_of("as_tensor", dtype))
    return _finish(array, device, False)


def from_dlpack(source: Any) -> Tensor:
    """A tensor over the memory of another library's tensor, on a GPU or the CPU.

    Raises:
        DTypeError: it has no `__dlpack__`, or elements of a type that tensors do not have.
        DeviceError: memory of a device that this installation does not have.
    """
    place = getattr(source, "__dlpack_device__", None)
    if place is None:
        raise DTypeError(
            f"from_dlpack: an object with __dlpack__ is expected, got {type(source).__name__}"
        )
    on_cpu = place()[0] == 1
    array = np.from_dlpack(source) if on_cpu else _core.cuda_from_dlpack(source)
    check_dtype("from_dlpack", array.dtype)
    return wrap(array)


def from_numpy(array: Array) -> Tensor:
    """A tensor that shares the array's memory."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: an ndarray is expected, got {type(array).__name__}")
    check_mask("from_numpy", array)
    check_dtype("from_numpy", array.dtype)
    return wrap(array)


def is_tensor(value: object) -> builtins.bool:
    """Whether it is a Tensor."""
    return isinstance(value, Tensor)


def _allocated(
    op: str, make: Callable[..., Array], size: tuple[Any, ...], dtype: Any, *value: Any
) -> Array:
    sizes = sizes_of(op, size)
    if builtins.any(number < 0 for number in sizes):
        raise ShapeError(f"{op}: sizes must not be negative, got {sizes}")
    wanted = dtype_of(op, np.float32 if dtype is None else dtype)
    if math.prod(sizes) * wanted.itemsize >= 2**63:
        raise ShapeError(
            f"{op}: the elements must take less than 2**63 bytes, got {sizes} of {wanted}; "
            "check the sizes"
        )
    return make(sizes, *value, dtype=wanted)


def zeros(
    *size: _Size, dtype: Any = None, device: _Device = None, requires_grad: builtins.bool = False
) -> Tensor:
    """Filled with 0."""
    return _finish(_allocated("zeros", np.zeros, size, dtype), device, requires_grad)


def ones(
    *size: _Size, dtype: Any = None, device: _Device = None, requires_grad: builtins.bool = False
) -> Tensor:
    """Filled with 1."""
    return _finish(_allocated("ones", np.ones, size, dtype), device, requires_grad)


def empty(
    *size: _Size, dtype: Any = None, device: _Device = None, requires_grad: builtins.bool = False
) -> Tensor:
    """With whatever the memory holds."""
    return _finish(_allocated("empty", np.empty, size, dtype), device, requires_grad)


def full(
    size: _Size,
    fill_value: Scalar,
    dtype: Any = None,
    device: _Device = None,
    requires_grad: builtins.bool = False,
) -> Tensor:
    """Filled with one number, whose type gives the dtype where none is named."""
    if dtype is None:
        dtype = as_array("full", fill_value).dtype
    return _finish(_allocated("full", np.full, (size,), dtype, fill_value), device, requires_grad)


def zeros_like(a: Tensor, dtype: Any = None, requires_grad: builtins.bool = False) -> Tensor:
    """Zeros in a's shape and dtype."""
    return zeros(a.shape, dtype=dtype or a.dtype, device=a.device, requires_grad=requires_grad)


def ones_like(a: Tensor, dtype: Any = None, requires_grad: builtins.bool = False) -> Tensor:
    """Ones in a's shape and dtype."""
    return ones(a.shape, dtype=dtype or a.dtype, device=a.device, requires_grad=requires_grad)


def empty_like(a: Tensor, dtype: Any = None, requires_grad: builtins.bool = False) -> Tensor:
    """Memory of a's shape and dtype, not filled."""
    return empty(a.shape, dtype=dtype or a.dtype, device=a.device, requires_grad=requires_grad)


def full_like(
    a: Tensor, fill_value: Scalar, dtype: Any = None, requires_grad: builtins.bool = False
) -> Tensor:
    """One number in a's shape and dtype."""
    wanted = dtype or a.dtype
    return full(a.shape, fill_value, wanted, a.device, requires_grad)


def arange(start: Scalar, end: Scalar | None = None, step: Scalar = 1, dtype: Any = None) -> Tensor:
    """Numbers from start (0 where only an end is given) to before end."""
    if end is None:
        start, end = 0, start
    if step == 0:
        raise ValueError("arange: step must not be 0")
    if dtype is None:
        dtype = int64 if all(isinstance(part, int) for part in (start, end, step)) else float32
    return wrap(np.arange(start, end, step, dtype=dtype_of("arange", dtype)))


def linspace(start: float, end: float, steps: int, dtype: Any = None) -> Tensor:
    """`steps` numbers at equal distances, from start to end."""
    wanted = dtype_of("linspace", float32 if dtype is None else dtype)
    return wrap(np.linspace(start, end, steps, dtype=wanted))


def eye(n: int, m: int | None = None, dtype: Any = None) -> Tensor:
    """Ones on the diagonal."""
    return wrap(np.eye(n, m, dtype=dtype_of("eye", float32 if dtype is None else dtype)))
