"""Random tensors. The same seed gives the same numbers on any machine, for any number of threads:
Philox, keyed by (seed, stream, element index); every call takes the next stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, kernels
from .autograd import wrap
from .config import seed
from .device import device as find_device
from .device_array import DeviceArray, beside
from .ops.common import sizes_of

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = [
    "bernoulli", "get_rng_state", "manual_seed", "rand", "rand_like", "randint", "randn",
    "randn_like", "randperm", "seed", "set_rng_state",
]  # fmt: skip


manual_seed = seed


def get_rng_state() -> tuple[int, int]:
    """(seed, next stream): all there is to know."""
    seed_value, stream = _core.get_key()
    return seed_value, stream


def set_rng_state(state: tuple[int, int]) -> None:
    """Returns to what get_rng_state gave."""
    _core.set_key(*state)


def _float_dtype(op: str, dtype: Any) -> np.dtype[Any]:
    wanted = np.dtype(np.float32 if dtype is None else dtype)
    if wanted not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise _core.DTypeError(f"{op}: dtype must be float32 or float64, got {wanted}")
    return wanted


def _room(shape: Sequence[int], dtype: Any, device: Any) -> Any:
    """Memory on a GPU for numbers that are drawn there, the same as on the CPU; else nothing."""
    index = None if device is None else find_device(device).index
    return None if index is None else _core.cuda_empty(tuple(shape), np.dtype(dtype), index)


def _on(device: Any, data: Any) -> Tensor:
    """Numbers that are made on the CPU, on the device."""
    return wrap(data) if device is None else wrap(data).to(device)


def rand(
    *size: int | Sequence[int],
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers spread evenly over [0, 1)."""
    shape, wanted = sizes_of("rand", size), _float_dtype("rand", dtype)
    data = kernels.uniform(shape, dtype=wanted, out=_room(shape, wanted, device))
    return wrap(data).requires_grad_(requires_grad)


def randn(
    *size: int | Sequence[int],
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Numbers of the normal distribution, mean 0 and variance 1."""
    shape, wanted = sizes_of("randn", size), _float_dtype("randn", dtype)
    data = kernels.normal(shape, dtype=wanted, out=_room(shape, wanted, device))
    return wrap(data).requires_grad_(requires_grad)


def rand_like(a: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """`rand` in a's shape and dtype, where a lies."""
    return rand(a.shape, dtype=dtype or a.dtype, device=a.device, requires_grad=requires_grad)


def randn_like(a: Tensor, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """`randn` in a's shape and dtype, where a lies."""
    return randn(a.shape, dtype=dtype or a.dtype, device=a.device, requires_grad=requires_grad)


def randint(
    low: int, high: int | None = None, size: Sequence[int] = (), *, device: Any = None
) -> Tensor:
    """Integers (int64) in [low, high), or in [0, low) where high is missing."""
    if high is None:
        low, high = 0, low
    if not 0 < high - low <= 2**52:
        raise ValueError(f"randint: 0 < high - low <= 2**52 is expected, got [{low}, {high})")
    unit = kernels.uniform(sizes_of("randint", (tuple(size),)), dtype=np.dtype(np.float64))
    whole = np.asarray(np.floor(unit * (high - low))).astype(np.int64) + np.int64(low)
    return _on(device, whole)


def randperm(n: int, *, device: Any = None) -> Tensor:
    """The integers from 0 to n - 1 in random order."""
    return wrap(kernels.permutation(n, out=_room((max(n, 0),), np.int64, device)))


def bernoulli(a: Tensor, p: float | None = None) -> Tensor:
    """1 with the probability that a's element names (or p, for all), else 0; of a's shape and
    dtype, without gradient."""
    data = a._data
    if data.dtype.kind != "f":
        raise _core.DTypeError(f"bernoulli: a float tensor is expected, got {data.dtype}")
    index = data.device_index if isinstance(data, DeviceArray) else None
    room = None if index is None else _core.cuda_empty(data.shape, data.dtype, index)
    if p is not None:
        return wrap(kernels.bernoulli(data.shape, p, dtype=data.dtype, out=room))
    if index is None and not ((data >= 0) & (data <= 1)).all():
        raise ValueError("bernoulli: probabilities must be in [0, 1], got others")
    unit = kernels.uniform(data.shape, dtype=data.dtype, out=room)
    return wrap(kernels.where(kernels.lt(unit, data), beside(np.ones((), data.dtype), data), 0))
