"""Where a tensor lies."""

from __future__ import annotations

from typing import Any

from . import _core
from ._core import DeviceError

__all__ = ["device"]


class Device:
    """A place for tensors: "cpu", or "cuda:0" and so on ("cuda" is the first GPU).

    Raises:
        DeviceError: a device that this installation does not have, with the reason.
        ValueError: no name of a device.
    """

    __slots__ = ("index", "type")
    index: int | None
    type: str

    def __init__(self, name: str | Device, index: int | None = None) -> None:
        kind, _, number = str(name).partition(":")
        if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
            raise ValueError(f'device: "cpu" or "cuda[:index]" is expected, got {name!r}')
        self.type = kind
        self.index = None
        if kind == "cuda":
            self.index = _gpu(int(number) if number else index or 0)

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Device) and self.type == other.type and self.index == other.index
        return same or (isinstance(other, str) and other in (str(self), self._short()))

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def _short(self) -> str:
        return self.type if not self.index else str(self)

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        more = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{more})"


def _gpu(index: int) -> int:
    """The index, where it names a GPU that our kernels run on."""
    from . import cuda

    reason = cuda.unavailable_reason()
    if reason:
        raise DeviceError(
            f'device: a device of this installation is expected, got "cuda:{index}"; {reason}; '
            'use "cpu"'
        )
    if index >= _core.cuda_count():
        raise DeviceError(
            f"device: the index of a GPU must be below {_core.cuda_count()}, the number of GPUs, "
            f'got "cuda:{index}"'
        )
    if not _core.cuda_info(index)["runs"]:
        raise DeviceError(f"device: {cuda._unsupported(index)}")
    return index


_CPU = Device("cpu")


def device(name: Any, index: int | None = None) -> Device:
    """The device of that name; "cuda" raises DeviceError, with the reason, where there is none."""
    if isinstance(name, Device):
        return name
    if not isinstance(name, str):
        raise TypeError(f"device: a name is expected, got {type(name).__name__}")
    return _CPU if name == "cpu" else Device(name, index)


def device_of(data: Any) -> Device:
    """Where an array lies."""
    if type(data) is not _core.DeviceArray:
        return _CPU
    found = object.__new__(Device)
    found.type, found.index = "cuda", data.device_index
    return found
