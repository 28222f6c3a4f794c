"""What every op needs: operands of one dtype, gradients summed back over broadcast axes, axes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import kernels
from .._core import DTypeError, ShapeError
from ..autograd import Value, wrap
from ..device_array import DeviceArray, beside

if TYPE_CHECKING:
    from ..tensor import Tensor

Array = np.ndarray[Any, Any]
Scalar: TypeAlias = bool | int | float
Operand: TypeAlias = "Tensor | Array | Scalar"
Axes: TypeAlias = int | Sequence[int] | None


def is_float(array: Array) -> bool:
    return array.dtype.kind == "f"


def constant(op: str, value: object, dtype: np.dtype[Any]) -> Tensor:
    """`value` as a tensor without gradient; Python scalars take `dtype`."""
    if isinstance(value, np.ndarray):
        return wrap(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if dtype.kind != "f":
            raise DTypeError(
                f"{op}: a float cannot take the tensor's dtype {dtype} without loss, got {value}; "
                "convert the tensor first (.float())"
            )
        return wrap(np.array(value, dtype))
    if isinstance(value, int):  # bool too
        if dtype.kind == "b" and not isinstance(value, bool):
            raise DTypeError(
                f"{op}: an int cannot take the tensor's dtype bool, got {value}; "
                "convert the tensor first (.float() or .long())"
            )
        try:
            return wrap(np.array(value, dtype))
        except OverflowError:
            raise DTypeError(f"{op}: {value} does not fit the tensor's dtype {dtype}") from None
    raise TypeError(
        f"{op}: a Tensor, an ndarray or a number is expected, got {type(value).__name__}"
    )


def operands(op: str, a: Operand, b: Operand) -> tuple[Tensor, Tensor]:
    """Both operands as tensors of one dtype."""
    if not isinstance(a, Value):
        if not isinstance(b, Value):
            raise TypeError(f"{op}: a Tensor is expected, got {type(a).__name__}")
        a = _beside(constant(op, a, b._data.dtype), a, b)
    elif not isinstance(b, Value):
        b = _beside(constant(op, b, a._data.dtype), b, a)
    if a._data.dtype is not b._data.dtype and a._data.dtype != b._data.dtype:
        raise DTypeError(
            f"{op}: both operands must have the same dtype, got {a._data.dtype} and "
            f"{b._data.dtype}; convert one of them (.float(), .double(), .to(dtype))"
        )
    return a, b


def _beside(made: Tensor, value: object, other: Value) -> Tensor:
    """A number's tensor where the other operand lies; arrays stay where they are."""
    if type(other._data) is DeviceArray and not isinstance(value, np.ndarray):
        made._data = beside(made._data, other._data)
    return made


def as_array(result: Any) -> Array:
    """What a kernel gave as an array: NumPy's scalars become arrays without dims."""
    return result if type(result) is DeviceArray else np.asarray(result)


def tensor_of(op: str, value: object) -> Tensor:
    """`value`, which must be a tensor."""
    if isinstance(value, Value):
        return value  # type: ignore[return-value]
    raise TypeError(
        f"{op}: a Tensor is expected, got {type(value).__name__}; wrap it with hl.tensor(...)"
    )


def broadcast_error(op: str, *arrays: Array) -> ShapeError:
    shapes = " and ".join(str(array.shape) for array in arrays)
    return ShapeError(f"{op}: shapes must broadcast together, got {shapes}")


def unbroadcast(dy: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an operand of `shape` that was broadcast to dy's shape."""
    if dy.shape == shape:
        return dy
    lead = dy.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        lead + i for i, size in enumerate(shape) if size == 1 and dy.shape[lead + i] != 1
    )
    return as_array(kernels.sum(dy, axis=axes)).reshape(shape)


def axis_of(op: str, dim: int, ndim: int) -> int:
    """`dim` counted from the front."""
    try:
        axis = operator.index(dim)
    except TypeError:
        raise TypeError(f"{op}: dim must be an int, got {type(dim).__name__}") from None
    if not -max(ndim, 1) <= axis < max(ndim, 1):
        raise ShapeError(
            f"{op}: dim must be in [{-max(ndim, 1)}, {max(ndim, 1) - 1}] for a tensor of rank "
            f"{ndim}, got {dim}"
        )
    return axis % max(ndim, 1)


def axes_of(op: str, dim: Axes, ndim: int) -> tuple[int, ...]:
    """The axes to reduce, counted from the front; all of them for None."""
    if dim is None:
        return tuple(range(ndim))
    if isinstance(dim, int):
        return (axis_of(op, dim, ndim),) if ndim else ()
    axes = tuple(axis_of(op, d, ndim) for d in dim)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{op}: every dim may appear once, got {tuple(dim)}")
    return (axes or tuple(range(ndim))) if ndim else ()


def sizes_of(op: str, shape: tuple[Any, ...]) -> tuple[int, ...]:
    """A shape given as separate ints or as one sequence."""
    if len(shape) == 1 and hasattr(shape[0], "__iter__"):
        shape = tuple(shape[0])
    try:
        return tuple(operator.index(size) for size in shape)
    except TypeError:
        raise TypeError(f"{op}: sizes must be ints, got {shape}") from None
