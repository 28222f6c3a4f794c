"""Modules made of modules."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from .convolution import Conv2d
from .fusion import conv_relu_pool, norm_relu
from .module import Module
from .norm import BatchNorm1d, BatchNorm2d

__all__ = ["ModuleDict", "ModuleList", "Sequential"]


class _Numbered(Module):
    """Children with the names "0", "1", ..."""

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __getitem__(self, index: int | slice) -> Any:
        layers = list(self.named_children())
        if isinstance(index, slice):
            return self._of(layers[index])
        return layers[self._position(index)][1]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(list(self.named_children())[self._position(index)][0], module)

    def _of(self, named: list[tuple[str, Module]]) -> Self:
        part = type(self)()
        for name, module in named:
            part.add_module(name, module)
        return part

    def _position(self, index: int) -> int:
        length, number = len(self), operator.index(index)
        if not -length <= number < length:
            raise IndexError(
                f"{type(self).__name__}: an index in [{-length}, {length - 1}] is expected, got "
                f"{index}"
            )
        return number % length

    def append(self, module: Module) -> Self:
        """Adds a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Adds modules at the end."""
        for module in modules:
            self.append(module)
        return self


class Sequential(_Numbered):
    """Modules one after the other; from modules, or from one mapping of names to modules.

    Conv2d, ReLU and MaxPool2d(2) in a row run as one kernel, BatchNorm and ReLU as another, in
    training too: the same bits, and what lies between them is never stored.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.add_module(name, module)
        else:
            for i, layer in enumerate(modules):
                self.add_module(str(i), layer)  # type: ignore[arg-type]

    def forward(self, input: Any) -> Any:
        layers = [layer for layer in self.__dict__.values() if isinstance(layer, Module)]
        done = 0
        for at, layer in enumerate(layers):
            if at < done:
                continue
            if type(layer) is Conv2d:
                fused = conv_relu_pool(layers, at, input)
                if fused is not None:
                    input, done = fused, at + 3
                    continue
            elif type(layer) is BatchNorm2d or type(layer) is BatchNorm1d:
                fused = norm_relu(layers, at, input)
                if fused is not None:
                    input, done = fused, at + 2
                    continue
            input = layer(input)
        return input


class ModuleList(_Numbered):
    """A list of modules whose parameters count."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)


class ModuleDict(Module):
    """A dict of modules whose parameters count."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        for name, module in (modules or {}).items():
            self[name] = module

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.named_children())

    def __contains__(self, name: object) -> bool:
        return any(name == own for own in self)

    def __getitem__(self, name: str) -> Module:
        child = self.__dict__.get(name)
        if not isinstance(child, Module):
            raise KeyError(name)
        return child

    def __setitem__(self, name: str, module: Module) -> None:
        if hasattr(type(self), name):
            raise KeyError(f"ModuleDict: {name!r} is the name of a method; choose another")
        self.add_module(name, module)

    def keys(self) -> Iterator[str]:
        """The names."""
        return iter(self)

    def values(self) -> Iterator[Module]:
        """The modules."""
        return self.children()

    def items(self) -> Iterator[tuple[str, Module]]:
        """Names and modules."""
        return self.named_children()
