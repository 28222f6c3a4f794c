"""Where a tensor lies."""

from __future__ import annotations

from typing import Any

from ._core import DeviceError

__all__ = ["device"]


class Device:
    """A place for tensors: "cpu" today.

    Raises:
        DeviceError: a device that this installation does not have, with the reason.
        ValueError: no name of a device.
    """

    __slots__ = ("index", "type")

    def __init__(self, name: str | Device, index: int | None = None) -> None:
        kind, _, number = str(name).partition(":")
        if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
            raise ValueError(f'device: "cpu" or "cuda[:index]" is expected, got {name!r}')
        if kind == "cuda":
            from . import cuda

            raise DeviceError(
                f'device: a device of this installation is expected, got "{name}"; '
                f'{cuda.unavailable_reason()}; use "cpu"'
            )
        self.type = kind
        self.index = int(number) if number else index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.type == other.type

    def __hash__(self) -> int:
        return hash(self.type)

    def __str__(self) -> str:
        return self.type

    def __repr__(self) -> str:
        return f"device(type='{self.type}')"


_CPU = Device("cpu")


def device(name: Any, index: int | None = None) -> Device:
    """The device of that name: "cpu"; "cuda" raises DeviceError with the reason."""
    if isinstance(name, Device):
        return name
    if not isinstance(name, str):
        raise TypeError(f"device: a name is expected, got {type(name).__name__}")
    return _CPU if name == "cpu" else Device(name, index)
