"""Datasets: anything with a length and items; those over arrays give whole batches at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hotloop.creation import from_numpy
from hotloop.data.random import Seed, generator_of
from hotloop.tensor import Tensor

__all__ = ["Dataset", "Subset", "TakesBatches", "TensorDataset", "random_split", "stratified_split"]

Array = np.ndarray[Any, Any]


class Dataset:
    """A map-style dataset: implement `__getitem__` and `__len__`."""

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


@runtime_checkable
class TakesBatches(Protocol):
    """A dataset that hands out a whole batch in one go instead of samples to be stacked."""

    def take(self, indices: Array) -> Any:
        """The batch of the samples at these positions."""
        ...


class TensorDataset(Dataset):
    """Samples along the first axis of tensors or arrays of equal length.

    Args:
        tensors: tensors or NumPy arrays; they are not copied.

    Raises:
        ValueError: no tensors, a scalar, or different lengths.
    """

    def __init__(self, *tensors: Tensor | Array) -> None:
        self.tensors = tuple(
            t if isinstance(t, Tensor) else from_numpy(np.asarray(t)) for t in tensors
        )
        self._arrays = [t.detach().numpy() for t in self.tensors]
        if not tensors or any(a.ndim == 0 for a in self._arrays):
            raise ValueError(
                "TensorDataset: at least one tensor with a first axis must be given, got "
                f"shapes {[a.shape for a in self._arrays]}; pass the inputs and the labels"
            )
        lengths = [len(a) for a in self._arrays]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"TensorDataset: the tensors must have one length, got {lengths}; "
                "the first axis counts the samples"
            )

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self) -> int:
        return len(self._arrays[0])

    def take(self, indices: Array) -> list[Tensor]:
        """The batch at these positions, as fresh tensors: one indexing per tensor."""
        return [from_numpy(array[indices]) for array in self._arrays]


class Subset(Dataset):
    """The samples of a dataset at the given positions.

    Raises:
        IndexError: a position outside the dataset.
    """

    def __init__(self, dataset: Any, indices: Sequence[int] | Array) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64).reshape(-1)
        size = len(dataset)
        outside = self.indices[(self.indices < -size) | (self.indices >= size)]
        if outside.size:
            raise IndexError(
                f"Subset: indices must lie in a dataset of {size} samples, got {outside[0]}"
            )
        if isinstance(dataset, TakesBatches):
            self.take = self._take

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[int(self.indices[index])]

    def __len__(self) -> int:
        return len(self.indices)

    def _take(self, indices: Array) -> Any:
        return self.dataset.take(self.indices[indices])


def random_split(dataset: Any, lengths: Sequence[float], generator: Seed = None) -> list[Subset]:
    """Splits a dataset at random into parts that do not overlap.

    Args:
        dataset: anything with a length.
        lengths: sizes that add up to the dataset's, or fractions that add up to 1 (what rounding
            leaves over goes to the first parts, one each, as in PyTorch).
        generator: a seed or a NumPy generator; None takes hotloop's own seed (`hl.seed`).

    Raises:
        ValueError: negative lengths, or lengths that do not add up.
    """
    total = len(dataset)
    sizes = _sizes(lengths, total)
    order = generator_of(generator).permutation(total)
    stops = np.cumsum(sizes)
    return [Subset(dataset, order[stop - size : stop]) for size, stop in zip(sizes, stops)]


def _sizes(lengths: Sequence[float], total: int) -> list[int]:
    if any(length < 0 for length in lengths):
        raise ValueError(f"random_split: lengths must be >= 0, got {list(lengths)}")
    fractions = math.isclose(sum(lengths), 1.0) and all(length <= 1 for length in lengths)
    if fractions and not (total == 1 and all(isinstance(length, int) for length in lengths)):
        sizes = [math.floor(total * length) for length in lengths]
        for index in range(total - sum(sizes)):
            sizes[index % len(sizes)] += 1
        return sizes
    if sum(lengths) != total or any(length != int(length) for length in lengths):
        raise ValueError(
            f"random_split: lengths must add up to the dataset's {total} samples or to 1, got "
            f"{list(lengths)} of sum {sum(lengths)}"
        )
    return [int(length) for length in lengths]


def stratified_split(labels: Array, test_size: int, seed: Seed = 0) -> tuple[Array, Array]:
    """Positions for training and for testing, with the classes in the same proportions in both.

    Args:
        labels: (N,) class of each sample.
        test_size: how many samples to put aside for testing.
        seed: a seed or a NumPy generator.

    Returns:
        The positions for training and for testing, each in rising order.

    Raises:
        ValueError: labels of another rank, or a test_size outside 0 to N.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not 0 <= test_size <= len(labels):
        raise ValueError(
            f"stratified_split: labels must be (N,) with N >= test_size >= 0, got shape "
            f"{labels.shape} and {test_size}"
        )
    random = generator_of(seed)
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (test_size / max(len(labels), 1))
    quota = np.floor(exact + 1e-9).astype(np.int64)
    most_cut = np.argsort(quota - exact, kind="stable")
    quota[most_cut[: test_size - int(quota.sum())]] += 1
    parts = [
        random.permutation(np.flatnonzero(labels == label))[:size]
        for label, size in zip(classes, quota)
    ]
    test = np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
    return np.setdiff1d(np.arange(len(labels)), test), test
