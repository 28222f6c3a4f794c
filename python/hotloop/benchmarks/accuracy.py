"""How far a function is off: every 1,021st float32 there is, NaN left out, against float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import hotloop as hl

Array = np.ndarray[Any, Any]
STEP = 1021

_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    power = np.exp(-np.abs(x))
    return np.where(x < 0, power, 1.0) / (1.0 + power)


def _times(x: Array, share: Array) -> Array:
    """x * share, with the limit 0 at minus infinity."""
    return np.where(x == -np.inf, 0.0, x * share)


REFERENCES: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "erf": _erf,
    "sigmoid": _sigmoid,
    "silu": lambda x: _times(x, _sigmoid(x)),
    "gelu": lambda x: _times(x, 0.5 * _erfc(-x / math.sqrt(2.0))),
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
}


def sweep() -> Array:
    """Denormals, infinities, both zeros and all exponents."""
    bits = np.arange(0, 2**32, STEP, dtype=np.uint64).astype(np.uint32)
    x = np.concatenate([bits.view(np.float32), np.array([np.inf, -np.inf, 0.0], np.float32)])
    return x[~np.isnan(x)]


def ulp_error(actual: Array, expected: Array) -> Array:
    """In units in the last place of float32; 0 where both are NaN or the same infinity."""
    with np.errstate(all="ignore"):
        rounded = expected.astype(np.float32)
        spacing = np.spacing(np.abs(rounded)).astype(np.float64)
        error = np.abs(actual.astype(np.float64) - expected) / spacing
    same = (actual == rounded) | (np.isnan(actual) & np.isnan(expected))
    return np.where(same & ~np.isfinite(rounded), 0.0, error)


def worst_ulp(name: str) -> float:
    """The largest error of `hotloop.kernels.<name>` over the sweep, at the level in force."""
    x = sweep()
    with np.errstate(all="ignore"):
        expected = REFERENCES[name](x.astype(np.float64))
    return float(ulp_error(getattr(hl.kernels, name)(x), expected).max())
