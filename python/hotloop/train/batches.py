"""From what the caller passes as data to batches of (input, target) tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from hotloop.creation import from_numpy
from hotloop.data import DataLoader, TensorDataset
from hotloop.tensor import Tensor

__all__ = ["as_batches", "pairs", "rows", "tensor_of"]


def as_batches(op: str, data: Any, batch_size: int, shuffle: bool) -> Iterable[Any]:
    """A pair of arrays becomes a loader; an iterable of batches stays what it is."""
    if isinstance(data, tuple) and len(data) == 2 and all(hasattr(part, "shape") for part in data):
        data = DataLoader(TensorDataset(*data), batch_size, shuffle=shuffle)
    elif (
        hasattr(data, "__getitem__")
        and hasattr(data, "__len__")
        and not isinstance(data, DataLoader | list | tuple)
    ):
        data = DataLoader(data, batch_size, shuffle=shuffle)
    if not isinstance(data, Iterable):
        raise TypeError(
            f"{op}: data must be a DataLoader, a dataset, a pair (x, y) or an iterable of batches, "
            f"got {type(data).__name__}"
        )
    if isinstance(data, DataLoader) and len(data) == 0:
        raise ValueError(
            f"{op}: the data must give at least one batch, got {len(data.dataset)} samples in "
            f"batches of {data.batch_size}; check the dataset, or drop_last"
        )
    return data


def pairs(op: str, data: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Inputs, targets and number of samples, batch by batch."""
    for index, batch in enumerate(data):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(
                f"{op}: a batch must be a pair (inputs, targets), got "
                f"{type(batch).__name__} at batch {index}; check the dataset or collate_fn"
            )
        x, y = tensor_of(batch[0]), tensor_of(batch[1])
        if rows(op, x, index) != rows(op, y, index):
            raise ValueError(
                f"{op}: inputs and targets must have as many rows, got {tuple(x.shape)} and "
                f"{tuple(y.shape)} at batch {index}"
            )
        yield x, y, rows(op, x, index)


def rows(op: str, x: Tensor, index: int) -> int:
    """How many samples a batch has; none is an error."""
    count = int(x.shape[0]) if len(x.shape) else 0
    if count == 0:
        raise ValueError(
            f"{op}: a batch must have at least one sample along its first axis, got shape "
            f"{tuple(x.shape)} at batch {index}; leave empty batches out"
        )
    return count


def tensor_of(value: Any) -> Tensor:
    """A tensor around an array or a list; tensors stay."""
    return value if isinstance(value, Tensor) else from_numpy(np.asarray(value))
