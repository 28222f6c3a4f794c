"""Weights packed for many forward passes without a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .module import Module
from .parameter import Parameter

__all__ = ["Packable", "PackedWeight", "packed_weights"]


class PackedWeight:
    """A weight in the order in which its kernel reads it, and what it was made of."""

    def __init__(self, weight: Parameter, make: Callable[[Any], Any]) -> None:
        self.data, self.version = weight._data, weight._version[0]
        self.pack = make(weight._data)

    def stands_for(self, weight: Parameter) -> bool:
        """False once the weight was replaced or written."""
        return weight._data is self.data and weight._version[0] == self.version

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # copies of a layer, and pickles, have none


class Packable(Module):
    """A layer whose kernel takes packed weights."""

    weight: Parameter
    _pack: PackedWeight | None = None  # where it is frozen, and inside packed_weights

    def _packed(self) -> PackedWeight | None:
        """A packed copy of the weight; None where that does not pay."""
        raise NotImplementedError

    def _keep_copies(self) -> None:
        self._pack = None if self.weight.is_cuda else self._packed()  # on a GPU nothing is packed

    def _drop_copies(self) -> None:
        self._pack = None

    def _is_packed(self) -> bool:
        return self._pack is not None and self._pack.stands_for(self.weight)


@contextmanager
def packed_weights(model: Module) -> Iterator[None]:
    """Inside, linear and convolution layers of a model multiply by packed copies of their weights.

    For many forward passes without a change of weights. A layer whose weight is changed meanwhile
    goes back to it; at the end all copies are dropped.
    """
    packable = (module for module in model.modules() if isinstance(module, Packable))
    layers = [layer for layer in packable if not layer._is_packed()]  # frozen ones keep theirs
    try:
        for layer in layers:
            layer._keep_copies()
        yield
    finally:
        for layer in layers:
            layer._drop_copies()
