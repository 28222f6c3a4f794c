"""Random numbers: number i of a stream is a function of (seed, stream, i), whatever the threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hotloop import _core

__all__ = ["bernoulli", "normal", "permutation", "random_key", "uniform"]

RandomKey: TypeAlias = tuple[int, int]
"""(seed, stream), each from 0 to 2**64 - 1."""


def random_key() -> RandomKey:
    """A key that no other call gets: the seed in force (`hotloop.seed`) and its next stream.

    Two calls with the same key draw the same numbers, which is how a backward pass finds the mask
    of its forward pass. `uniform`, `normal` and `dropout` take such a key.
    """
    seed, stream = _core.random_key()
    return int(seed), int(stream)


def uniform(
    shape: int | Sequence[int],
    *,
    low: float = 0.0,
    high: float = 1.0,
    dtype: DTypeLike | None = None,
    key: RandomKey | None = None,
    out: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.floating[Any]]:
    """Uniform numbers: ``low + (high - low) * u``, u in [0, 1) with 24 (float32) or 53 random bits.

    Rounding of the sum can give `high` itself. The same bits for any number of threads.

    Args:
        shape: of the result.
        low: where the range begins.
        high: where it ends, at least `low`.
        dtype: float32 or float64; by default that of `out`, or float32.
        key: (seed, stream); by default `random_key()`.
        out: where to write, of that shape and dtype; any strides (through scratch if not
            contiguous).

    Raises:
        ShapeError: a size is negative, or `out` has another shape.
        DTypeError: `dtype` is not float32 or float64, or not that of `out`; `key` is no key.
        OutputError: `out` is read-only.
        ValueError: `high` is below `low`, or one is not finite.

    Source: Philox 4x32-10, Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC11).
    """
    return _core.uniform(shape, low, high, dtype, key, out)


def normal(
    shape: int | Sequence[int],
    *,
    mean: float = 0.0,
    std: float = 1.0,
    dtype: DTypeLike | None = None,
    key: RandomKey | None = None,
    out: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.floating[Any]]:
    """Normal numbers: ``mean + std * z``, z by Box and Muller from Philox words.

    The same bits for any number of threads; levels of the kernels may differ in the last bits.

    Args:
        shape: of the result.
        mean: of the numbers.
        std: their standard deviation, at least 0.
        dtype: float32 or float64; by default that of `out`, or float32.
        key: (seed, stream); by default `random_key()`.
        out: where to write, of that shape and dtype; any strides (through scratch if not
            contiguous).

    Raises:
        ShapeError: a size is negative, or `out` has another shape.
        DTypeError: `dtype` is not float32 or float64, or not that of `out`; `key` is no key.
        OutputError: `out` is read-only.
        ValueError: `std` is negative, or a number is not finite.

    Source: Box and Muller, A note on the generation of random normal deviates (1958); Philox.
    """
    return _core.normal(shape, mean, std, dtype, key, out)


def bernoulli(
    shape: int | Sequence[int],
    p: float = 0.5,
    *,
    dtype: DTypeLike | None = None,
    key: RandomKey | None = None,
    out: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.floating[Any]]:
    """1 with probability `p`, else 0: where the number that `uniform` draws is below p.

    Args:
        shape: of the result.
        p: from 0 to 1.
        dtype: float32 or float64; by default that of `out`, or float32.
        key: (seed, stream); by default `random_key()`.
        out: where to write, of that shape and dtype; any strides (through scratch if not
            contiguous).

    Raises:
        ShapeError: a size is negative, or `out` has another shape.
        DTypeError: `dtype` is not float32 or float64, or not that of `out`; `key` is no key.
        OutputError: `out` is read-only.
        ValueError: `p` is not in [0, 1].
    """
    return _core.bernoulli(shape, p, dtype, key, out)


def permutation(
    n: int, *, key: RandomKey | None = None, out: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The integers from 0 to n - 1 in random order.

    Args:
        n: how many.
        key: (seed, stream); by default `random_key()`.
        out: where to write, n numbers of int64; on a GPU the same order is made there. Any strides.

    Raises:
        ShapeError: `n` is negative, or `out` has not n elements.
        DTypeError: `key` is no key, or `out` is not of int64.
        OutputError: `out` is read-only.

    Source: Fisher and Yates' shuffle; Lemire, Fast random integer generation in an interval (2019);
    on a GPU Shun et al., Sequential random permutation, list contraction and tree contraction are
    highly parallel (SODA 2015).
    """
    return _core.permutation(n, key, out)
