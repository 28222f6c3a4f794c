"""Tensor: a NumPy array that the tape knows, with PyTorch's spelling."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import autograd
from ._core import DeviceError, DTypeError, ShapeError
from .autograd import Node, Value, use_tensor_type, wrap
from .device import Device, device_of
from .device_array import DeviceArray, to_device
from .formatting import tensor_text
from .ops.common import Array, axis_of
from .ops.convert import check_dtype, check_mask
from .ops.methods import Methods

__all__ = ["Tensor"]


def as_array(op: str, data: Any, dtype: np.dtype[Any] | None = None) -> Array:
    """Numbers, lists, arrays or tensors as an array; Python floats become float32."""
    if isinstance(data, Value):
        array = data._data
    elif type(data) is DeviceArray:
        array = data
    elif isinstance(data, (np.ndarray, np.generic)):
        check_mask(op, data)
        array = np.asarray(data)
    else:
        if isinstance(data, (list, tuple)):
            data = _plain(data)
        try:
            array = np.asarray(data)
        except ValueError as error:
            raise ShapeError(f"{op}: nested lists must be of equal lengths: {error}") from None
        if array.dtype == np.float64 and not _holds_float64(data):
            array = array.astype(np.float32)
    if dtype is not None and array.dtype != dtype:
        array = array.astype(dtype)
    check_dtype(op, array.dtype)
    return array


def _plain(data: Any) -> Any:
    """Nested lists with arrays in the place of tensors."""
    if isinstance(data, (list, tuple)):
        return [_plain(part) for part in data]
    return data._data if isinstance(data, Value) else data


def _holds_float64(data: Any) -> builtins.bool:
    """Whether nested lists hold NumPy's float64 (then it is meant) and not only Python floats."""
    if isinstance(data, (list, tuple)):
        return builtins.any(_holds_float64(part) for part in data)
    return isinstance(data, (np.ndarray, np.generic)) and data.dtype == np.float64


class Tensor(Methods, Value):
    """An n-dimensional array with, where wanted, the way to its gradient.

    The array is a `numpy.ndarray` (`.data`), shared, not copied. Operations give new tensors;
    those whose names end in `_` change the tensor (`hotloop.ops.inplace`).
    """

    __slots__ = ()
    __array_priority__ = 1000  # ndarray + tensor is a tensor

    def __init__(self, data: Any = (), requires_grad: builtins.bool = False) -> None:
        self._data = as_array("Tensor", data)
        self._grad = None
        self._needs = False
        self._node = None
        self._version = data._version if isinstance(data, Value) else [0]
        if requires_grad:
            self.requires_grad_()

    # What it is.

    @property
    def data(self) -> Array:
        """The array itself. A write into it is not seen by backward; assigning an array of the
        same shape replaces it."""
        return self._data

    @data.setter
    def data(self, value: Array | Tensor) -> None:
        array = value._data if isinstance(value, Value) else as_array("data", value)
        if array.shape != self._data.shape and self._node is not None:
            raise ShapeError(f"data: shape {self._data.shape} is expected, got {array.shape}")
        if self._needs and array.dtype.kind != "f":
            raise DTypeError(
                f"data: a tensor with gradient holds float32 or float64, got {array.dtype}"
            )
        self._data = array

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward accumulated in this leaf."""
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"grad: a Tensor or None is expected, got {type(value).__name__}")
            if value.shape != self.shape or value.dtype != self.dtype:
                raise ShapeError(
                    f"grad: {self.dtype} of shape {self.shape} is expected, got {value.dtype} of "
                    f"shape {value.shape}"
                )
        self._grad = value

    @property
    def requires_grad(self) -> builtins.bool:
        """Whether operations on it are recorded."""
        return self._needs

    @requires_grad.setter
    def requires_grad(self, value: builtins.bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: builtins.bool = True) -> Tensor:
        """Switches recording on or off for this leaf; returns it."""
        if self._node is not None and not requires_grad:
            raise RuntimeError("requires_grad: only a leaf can be switched off; use detach()")
        if requires_grad and self._data.dtype.kind != "f":
            raise DTypeError(
                f"requires_grad: a tensor with gradient holds float32 or float64, got "
                f"{self._data.dtype}; call .float() first"
            )
        self._needs = requires_grad
        return self

    @property
    def is_leaf(self) -> builtins.bool:
        """Whether no recorded operation made it."""
        return self._node is None

    @property
    def grad_fn(self) -> Node | None:
        """The recorded operation that made it."""
        return self._node

    @property
    def shape(self) -> tuple[builtins.int, ...]:
        """The sizes."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements, a NumPy dtype."""
        return self._data.dtype

    @property
    def device(self) -> Device:
        """Where it lies: "cpu", "cuda:0" ..."""
        return device_of(self._data)

    @property
    def is_cuda(self) -> builtins.bool:
        """Whether it lies on a GPU."""
        return type(self._data) is DeviceArray

    @property
    def ndim(self) -> builtins.int:
        """The number of dims."""
        return self._data.ndim

    def dim(self) -> builtins.int:
        """The number of dims."""
        return self._data.ndim

    def size(self, dim: builtins.int | None = None) -> Any:
        """All sizes, or that of one dim."""
        if dim is None:
            return self._data.shape
        return self._data.shape[axis_of("size", dim, self._data.ndim)]

    def numel(self) -> builtins.int:
        """The number of elements."""
        return self._data.size

    nelement = numel

    def element_size(self) -> builtins.int:
        """Bytes per element."""
        return self._data.itemsize

    def is_contiguous(self) -> builtins.bool:
        """Whether the elements lie in C order."""
        return self._data.flags.c_contiguous

    def is_floating_point(self) -> builtins.bool:
        """Whether the elements are floats."""
        return self._data.dtype.kind == "f"

    # Out of it.

    def numpy(self) -> Array:
        """The array itself; raises for a tensor with gradient (detach it first) or on a GPU."""
        if self._needs:
            raise RuntimeError(
                "numpy: a tensor without gradient is expected, for the tape would not see what "
                "becomes of the array; call .detach().numpy()"
            )
        if type(self._data) is DeviceArray:
            raise DeviceError(
                f"numpy: a tensor on the CPU is expected, got one on {self.device}; call .cpu()"
            )
        return self._data

    def __array__(self, dtype: Any = None, copy: builtins.bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        if self._needs:
            raise BufferError("__dlpack__: a tensor without gradient is expected; call .detach()")
        return self._data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[builtins.int, builtins.int]:
        return self._data.__dlpack_device__()

    def item(self) -> Any:
        """The one element as a Python number."""
        if self._data.size != 1:
            raise ShapeError(f"item: a tensor of one element is expected, got shape {self.shape}")
        return self._data.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return self._data.tolist()

    def detach(self) -> Tensor:
        """The same array without the way to its gradient."""
        out = wrap(self._data)
        out._version = self._version
        return out

    def __bool__(self) -> builtins.bool:
        if self._data.size != 1:
            raise ShapeError(
                f"bool: a tensor of one element is expected, got shape {self.shape}; "
                "use .any() or .all()"
            )
        return bool(self._data.item())

    def __float__(self) -> builtins.float:
        return float(self.item())

    def __int__(self) -> builtins.int:
        return int(self.item())

    def __index__(self) -> builtins.int:
        if self._data.dtype.kind not in "iub":
            raise TypeError(f"index: an integer tensor is expected, got {self._data.dtype}")
        return int(self.item())

    def __len__(self) -> builtins.int:
        if self._data.ndim == 0:
            raise TypeError("len: rank 1 or more is expected, got a number; use .item()")
        return self._data.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self._data.ndim == 0:
            raise TypeError("iter: rank 1 or more is expected, got a number; use .item()")
        return (self[i] for i in range(self._data.shape[0]))

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and self._data.size == 1 else str(self)

    def __repr__(self) -> str:
        return tensor_text(self)

    # Copies.

    def float(self) -> Tensor:
        """As float32."""
        return self.to(np.float32)

    def double(self) -> Tensor:
        """As float64."""
        return self.to(np.float64)

    def long(self) -> Tensor:
        """As int64."""
        return self.to(np.int64)

    def int(self) -> Tensor:
        """As int32."""
        return self.to(np.int32)

    def bool(self) -> Tensor:
        """As bool: whether an element is not 0."""
        return self.to(np.bool_)

    def cpu(self) -> Tensor:
        """On the CPU: itself where it lies there."""
        return self.to("cpu")

    def cuda(self) -> Tensor:
        """On the GPU; raises DeviceError, with the reason, where there is none."""
        return self.to("cuda")

    def backward(
        self,
        gradient: Tensor | Array | None = None,
        retain_graph: builtins.bool = False,
    ) -> None:
        """Adds d self / d leaf, times gradient (1 for a single element), to every leaf's `.grad`.

        Args:
            gradient: of self's shape and dtype.
            retain_graph: keep what was saved, for another backward through the same operations.

        Raises:
            RuntimeError: nothing was recorded, it was freed by an earlier backward, or a saved
                tensor was changed in place since.
        """
        autograd.backward(self, gradient, retain_graph)

    @property
    def T(self) -> Tensor:
        """The dims in reverse order."""
        return self.permute(tuple(range(self._data.ndim))[::-1])

    @property
    def mT(self) -> Tensor:
        """The last two dims swapped."""
        return self.transpose(-2, -1)

    def view_as(self, other: Tensor) -> Tensor:
        """In other's shape."""
        return self.reshape(other.shape)

    def type_as(self, other: Tensor) -> Tensor:
        """In other's dtype."""
        return self.to(other.dtype)

    # Copies by the standard library.

    def __deepcopy__(self, memo: dict[builtins.int, Any]) -> Tensor:
        if self._node is not None:
            raise RuntimeError("deepcopy: a leaf is expected; detach() the tensor first")
        copy = _rebuild(type(self), self._data.copy(), self._needs)
        if self._grad is not None:
            copy._grad = wrap(self._grad._data.copy())
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._node is not None:
            raise RuntimeError("pickle: a leaf is expected; detach() the tensor first")
        data = to_device(self._data, None)  # another process may have no GPU
        return _rebuild, (type(self), data, self._needs)


def _rebuild(tensor_type: type[Tensor], data: Array, needs: builtins.bool) -> Tensor:
    tensor = object.__new__(tensor_type)
    Tensor.__init__(tensor, data)
    tensor._needs = needs
    return tensor


use_tensor_type(Tensor)
