"""Where the randomness of data comes from: Philox, keyed by a seed and an epoch."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from hotloop import _core

__all__ = ["Seed", "draw_seed", "epoch_generator", "generator_of"]

Seed: TypeAlias = int | np.random.Generator | None


def draw_seed() -> int:
    """A fresh seed that follows from `hl.seed`; takes one of its streams, like a random tensor."""
    seed, stream = _core.get_key()
    _core.set_key(seed, stream + 1)
    words = np.random.SeedSequence([seed, stream]).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def generator_of(seed: Seed) -> np.random.Generator:
    """The generator itself, or a Philox generator for a seed."""
    if isinstance(seed, np.random.Generator):
        return seed
    if seed is None:
        return epoch_generator(draw_seed(), 0)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(
            f"data: a seed must be an int, a numpy.random.Generator or None, got "
            f"{type(seed).__name__}; write generator=0"
        )
    return epoch_generator(int(seed), 0)


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """The generator of one epoch: what it gives depends on these two numbers alone."""
    mask = 2**64 - 1
    key = np.array([seed & mask, epoch & mask], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
