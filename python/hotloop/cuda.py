"""The CUDA device: whether it can be used, the reason where it cannot, its memory."""

from __future__ import annotations

from typing import Any

from . import _core

__all__ = [
    "device_count",
    "empty_cache",
    "get_device_name",
    "is_available",
    "memory_allocated",
    "memory_cached",
    "synchronize",
    "unavailable_reason",
]


# The kernels run in the tests on the CPU, by the emulator; no GPU has run them since they were
# written. Whoever commits results of a GPU (bench/device/) takes this back for what they cover.
VERIFIED = "not verified on a device"


def is_available() -> bool:
    """Whether tensors can be moved to the device "cuda"."""
    return not unavailable_reason()


def unavailable_reason() -> str:
    """One sentence saying why CUDA cannot be used; empty where it can."""
    reason = str(_core.cuda_reason())
    if reason or any(_runs(index) for index in range(_core.cuda_count())):
        return reason
    return _unsupported(0)


def built_with() -> str:
    """The compiler and the GPUs that the kernels were built for, or why there are none."""
    built = str(_core.cuda_build)
    return built if built.startswith("no") else f"{built}; {VERIFIED}"


def _runs(index: int) -> bool:
    return bool(_core.cuda_info(index)["runs"])


def _unsupported(index: int) -> str:
    about = _core.cuda_info(index)
    name = "sm_{}{}".format(*about["capability"])
    return (
        f"this GPU ({about['name']}) is {name}, the kernels were built for "
        f"{about['architectures']}: rebuild with HOTLOOP_CUDA_ARCHITECTURES={name[3:]}-real"
    )


def device_count() -> int:
    """How many GPUs there are; 0 where CUDA cannot be used."""
    return int(_core.cuda_count())


def index_of(device: Any) -> int:
    """The number of a GPU from a number, "cuda", "cuda:1", a device, or None for the first."""
    if device is None:
        return 0
    if isinstance(device, int):
        return device
    from .device import Device

    found = device if isinstance(device, Device) else Device(str(device))
    if found.index is None:
        raise ValueError(f"cuda: a GPU is expected, got {device!r}")
    return found.index


def synchronize(device: Any = None) -> None:
    """Waits until everything begun on the device is done.

    Args:
        device: a number, "cuda:1" or a device; the first GPU for None.

    Raises:
        DeviceError: no such device, or what was begun has failed.
    """
    _core.cuda_synchronize(index_of(device))


def memory_allocated(device: Any = None) -> int:
    """Bytes of the device's memory that arrays hold; 0 where CUDA cannot be used."""
    if not is_available():
        return 0
    return int(_core.cuda_info(index_of(device))["in_use_bytes"])


def memory_cached(device: Any = None) -> int:
    """Bytes kept for the next arrays, 0 without CUDA; `empty_cache` gives them back."""
    if not is_available():
        return 0
    return int(_core.cuda_info(index_of(device))["cached_bytes"])


def empty_cache(device: Any = None) -> None:
    """Gives memory that no array holds back to the driver; nothing where CUDA cannot be used."""
    if not is_available():
        return
    _core.cuda_empty_cache(index_of(device))


def get_device_name(device: Any = None) -> str:
    """What the driver calls the GPU."""
    return str(_core.cuda_info(index_of(device))["name"])
