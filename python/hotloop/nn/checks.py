"""Arguments of layers, checked where the layer is made."""

from __future__ import annotations

import operator
from collections.abc import Sequence

Pair = int | Sequence[int]


def positive(layer: str, name: str, value: int, least: int = 1) -> int:
    """An int of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{layer}: {name} must be an int, got {type(value).__name__}") from None
    if number < least:
        raise ValueError(f"{layer}: {name} must be at least {least}, got {number}")
    return number


def pair(layer: str, name: str, value: Pair, least: int = 1) -> tuple[int, int]:
    """An int for both axes, or one for each."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{layer}: {name} must be an int or a pair, got {value}")
        return positive(layer, name, value[0], least), positive(layer, name, value[1], least)
    number = positive(layer, name, value, least)  # type: ignore[arg-type]
    return number, number
