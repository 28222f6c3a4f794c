"""Dropout: the mask is never stored, the backward pass makes it anew from the key."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hotloop import _core
from hotloop.kernels.random import RandomKey

__all__ = ["dropout", "dropout_backward"]


def dropout(
    x: NDArray[np.floating[Any]],
    p: float = 0.5,
    *,
    key: RandomKey | None = None,
    out: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.floating[Any]]:
    """Sets each element to 0 with probability `p` and divides the others by ``1 - p``.

    Element i (in C order) survives when word i of the Philox stream is at least ``p * 2**32``: the
    same elements for any number of threads, level, dtype and memory order. A dropped element is 0
    also where x is NaN. ``p=1`` drops everything.

    Args:
        x: any shape, float32 or float64, any strides (packed if not in C order).
        p: probability of dropping, from 0 to 1.
        key: (seed, stream); by default `random_key()`. Pass one to be able to go backward.
        out: where to write; may be x itself. Any strides (through scratch if not contiguous).

    Returns:
        An array of x's shape and dtype, in x's memory order.

    Raises:
        ShapeError: `out` has another shape.
        DTypeError: x is not float32 or float64, `out` is of another dtype, or `key` is no key.
        OutputError: `out` is read-only or shares part of its memory with x.
        ValueError: `p` is out of range.

    Source: Srivastava et al., Dropout (JMLR 15, 2014); torch.nn.functional.dropout.
    """
    return _core.dropout(x, p, key, out)


def dropout_backward(
    dy: NDArray[np.floating[Any]],
    p: float = 0.5,
    *,
    key: RandomKey,
    out: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.floating[Any]]:
    """Gradient of `dropout` by x: ``dy / (1 - p)`` where the element survived, else 0.

    The mask is recomputed from the key, which costs less than to keep and read it.

    Args:
        dy: gradient by the result, same shape as x.
        p: as given to `dropout`.
        key: as given to `dropout`.
        out: where to write; may be dy itself.

    Raises:
        As `dropout`.
    """
    return _core.dropout_backward(dy, p, key, out)
