"""Batches from a dataset, in order or shuffled anew each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from hotloop.creation import from_numpy
from hotloop.data.dataset import TakesBatches
from hotloop.data.random import Seed, draw_seed, epoch_generator
from hotloop.tensor import Tensor

__all__ = ["DataLoader", "default_collate"]

Collate = Callable[[list[Any]], Any]


class DataLoader:
    """Iterates over a dataset in batches; each iteration is one epoch.

    The order of epoch e with seed s depends on (s, e) alone, so a run that is taken up again at an
    epoch (`loader.epoch = 3`, or `load_state_dict`) sees what the uninterrupted run saw.

    Args:
        dataset: anything with `__len__` and `__getitem__`; one with `take(indices)`, as
            `TensorDataset`, hands out whole batches at once.
        batch_size: samples per batch; the last one may be shorter.
        shuffle: whether to permute the samples, differently in each epoch.
        num_workers: only 0: batches are made in the calling thread.
        collate_fn: makes a batch of a list of samples (default: `default_collate`).
        drop_last: leave out a last batch that is shorter.
        pin_memory: taken for PyTorch's sake and without effect: what moves to a GPU goes through
            pinned memory anyhow.
        generator: a seed, or a NumPy generator that is drawn from once per epoch; None takes a
            seed that follows from `hl.seed`.

    Raises:
        TypeError: a dataset without a length, or a generator of another kind.
        ValueError: batch_size < 1, num_workers other than 0.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        num_workers: int = 0,
        collate_fn: Collate | None = None,
        drop_last: bool = False,
        pin_memory: bool = False,
        generator: Seed = None,
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                "DataLoader: the dataset must have __len__ and __getitem__, got "
                f"{type(dataset).__name__}; wrap arrays in TensorDataset(x, y)"
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
            raise TypeError(f"DataLoader: batch_size must be an int, got {batch_size!r}")
        if batch_size < 1:
            raise ValueError(f"DataLoader: batch_size must be at least 1, got {batch_size}")
        if num_workers != 0:
            raise ValueError(
                f"DataLoader: num_workers must be 0, got {num_workers}; batches of arrays are one "
                "indexing each, which no worker makes faster"
            )
        if generator is not None and not isinstance(
            generator, np.random.Generator | int | np.integer
        ):
            raise TypeError(
                "DataLoader: generator must be an int, a numpy.random.Generator or None, got "
                f"{type(generator).__name__}"
            )
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.pin_memory = bool(pin_memory)
        self.collate_fn = collate_fn
        self.generator = generator
        self.epoch = 0  # the number of the next epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[Any]:
        order = self._order()
        self.epoch += 1
        for index in range(len(self)):
            yield self._batch(order[index * self.batch_size : (index + 1) * self.batch_size])

    def _order(self) -> np.ndarray[Any, Any]:
        size = len(self.dataset)
        if not self.shuffle:
            return np.arange(size)
        if isinstance(self.generator, np.random.Generator):
            return self.generator.permutation(size)
        return epoch_generator(self._seed(), self.epoch).permutation(size)

    def _seed(self) -> int:
        if self.generator is None:
            self.generator = draw_seed()
        assert not isinstance(self.generator, np.random.Generator)
        return int(self.generator)

    def _batch(self, indices: np.ndarray[Any, Any]) -> Any:
        if self.collate_fn is None and isinstance(self.dataset, TakesBatches):
            return self.dataset.take(indices)
        samples = [self.dataset[int(index)] for index in indices]
        return (self.collate_fn or default_collate)(samples)

    def state_dict(self) -> dict[str, Any]:
        """The seed and the number of the next epoch, for going on later.

        Raises:
            ValueError: with a NumPy generator, whose state is the caller's.
        """
        if isinstance(self.generator, np.random.Generator):
            raise ValueError(
                "DataLoader: a state can be saved with a seed only, got a NumPy generator; "
                "pass generator=0 instead"
            )
        return {"seed": self._seed() if self.shuffle else None, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where the loader that gave the state had been."""
        if set(state) != {"seed", "epoch"}:
            raise ValueError(
                f'DataLoader: a state must have "seed" and "epoch", got {sorted(state)}; '
                "pass what loader.state_dict() returned"
            )
        self.generator = state["seed"]
        self.epoch = int(state["epoch"])


def default_collate(samples: list[Any]) -> Any:
    """Stacks samples along a new first axis: tensors, arrays, numbers, tuples and dicts of them.

    Python floats become float32, as new tensors do; ints become int64.

    Raises:
        TypeError: samples of another kind.
        ValueError: no samples, or samples of different shapes or lengths.
    """
    if not samples:
        raise ValueError("default_collate: at least one sample is needed, got none")
    first = samples[0]
    if isinstance(first, Tensor):
        return from_numpy(_stack([s.detach().numpy() for s in samples]))
    if isinstance(first, np.ndarray | np.generic):
        return from_numpy(_stack([np.asarray(s) for s in samples]))
    if isinstance(first, bool | int | float):
        kind = float if any(isinstance(s, float) for s in samples) else type(first)
        return from_numpy(np.array(samples, dtype=np.float32 if kind is float else kind))
    if isinstance(first, str):
        return list(samples)
    if isinstance(first, Mapping):
        return {key: default_collate([s[key] for s in samples]) for key in first}
    if isinstance(first, tuple | list):
        if len({len(s) for s in samples}) > 1:
            raise ValueError(
                "default_collate: samples must have one length, got "
                f"{sorted({len(s) for s in samples})}; pass a collate_fn"
            )
        return [default_collate(list(column)) for column in zip(*samples)]
    raise TypeError(
        "default_collate: samples must be tensors, arrays, numbers, or tuples and dicts of them, "
        f"got {type(first).__name__}; pass a collate_fn"
    )


def _stack(arrays: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ValueError(
            f"default_collate: samples must have one shape, got {sorted(shapes)[:3]}; "
            "pad them, or pass a collate_fn"
        )
    return np.stack(arrays)
