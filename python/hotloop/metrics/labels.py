"""From the shapes that models and data come in to class labels (N,)."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Array", "to_array", "to_labels"]

Array = np.ndarray[Any, Any]


def to_array(values: Any) -> Array:
    """The array behind a tensor, an array or a list."""
    return np.asarray(values.detach().numpy() if hasattr(values, "detach") else values)


def to_labels(values: Any, *, logits: bool = False, name: str = "labels") -> Array:
    """Class labels (N,) as int64.

    Args:
        values: integers or whole floats (N,) or (N, 1): the labels themselves; floats (N,) or
            (N, 1) otherwise: probabilities of class 1; (N, C): one-hot, scores or logits, of which
            the largest wins (the first of equals).
        logits: a single column holds logits instead of probabilities or labels.
        name: what to call the values in an error.

    Raises:
        ValueError: another rank, no classes, a NaN, a negative label, a probability outside 0 to 1.
    """
    array = to_array(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"metrics: {name} must be numbers, got {array.dtype}; convert them first")
    if array.ndim == 2 and array.shape[1] > 1:
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ValueError(f"metrics: {name} must not be NaN, got one; did training diverge?")
        return np.argmax(array, axis=1).astype(np.int64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"metrics: {name} must have shape (N,), (N, 1) or (N, C), got {array.shape}; "
            "reshape them to one row per sample"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() and not logits:
            raise ValueError(f"metrics: {name} must be finite, got NaN or infinity")
        if logits:
            array = array > 0
        elif np.any(array != np.floor(array)):
            if array.min() < 0 or array.max() > 1:
                raise ValueError(
                    f"metrics: {name} must be labels or probabilities in [0, 1], got "
                    f"{array.min():.3g} to {array.max():.3g}; pass logits=True for logits"
                )
            array = array > 0.5
    labels = array.astype(np.int64)
    if labels.size and labels.min() < 0:
        raise ValueError(f"metrics: {name} must be >= 0, got {labels.min()}; number classes from 0")
    return labels
