"""What the whole process shares: threads, the level of the kernels, the random seed."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass

from hotloop import _core

__all__ = ["Config", "force_isa", "get_num_threads", "seed", "set_num_threads", "show_config"]


def get_num_threads() -> int:
    """How many threads a kernel may use.

    The least of the CPUs this process may run on, its control group's CPU quota and
    ``HOTLOOP_NUM_THREADS`` (or, where that is unset, ``OMP_NUM_THREADS``), unless
    `set_num_threads` was called.
    """
    return int(_core.num_threads())


def set_num_threads(threads: int) -> None:
    """Sets how many threads a kernel may use, also beyond the number of CPUs.

    The results of kernels are the same bits for any number.

    Args:
        threads: at least 1, at most 1024.

    Raises:
        ValueError: the number is out of range.
        TypeError: it is no integer.
    """
    threads = operator.index(threads)
    if not 1 <= threads <= 1024:
        raise ValueError(
            f"set_num_threads: threads must be between 1 and 1024, got {threads}; "
            "1 keeps everything on the calling thread"
        )
    _core.set_num_threads(threads)


def seed(value: int) -> None:
    """Starts hotloop's random numbers anew: the same seed gives the same numbers.

    Every call that needs random numbers takes the next stream of the seed; number i of a stream is
    a function of (seed, stream, i), so it does not depend on threads. The seed is 0 at the start.

    Args:
        value: an integer from 0 to 2**64 - 1.

    Raises:
        ValueError: the value is out of range.
        TypeError: it is no integer.
    """
    value = operator.index(value)
    if not 0 <= value < 2**64:
        raise ValueError(f"seed: value must be from 0 to 2**64 - 1, got {value}; take it modulo")
    _core.set_seed(value)


def force_isa(level: str) -> contextlib.AbstractContextManager[None]:
    """Forces a level of the kernels for the whole process inside a ``with``: for tests and timing.

    The call alone forces nothing: ``with hl.kernels.force_isa("avx2"): ...``. HOTLOOP_ISA in the
    environment forces a level for all of a process.

    Args:
        level: ``"generic"``, ``"avx2"``, ``"avx512"`` or ``"avx512bf16"``.

    Raises:
        ValueError: the level is unknown, or this CPU does not support it.
    """
    if level not in _core.supported_levels():
        _core.force_level(level)  # raises now, not when the context is entered
    return _forced(level)


@contextlib.contextmanager
def _forced(level: str) -> Iterator[None]:
    before = _core.force_level(level)
    try:
        yield
    finally:
        if before is None:
            _core.unforce_level()
        else:
            _core.force_level(before)


@dataclass(frozen=True)
class Config:
    """What was chosen, and why. ``str(config)`` is a table for people."""

    version: str
    cpu_features: str
    levels: tuple[str, ...]
    level: str
    level_reason: str
    threads: int
    threads_reason: str

    def __str__(self) -> str:
        rows = {
            "hotloop": self.version,
            "CPU features": self.cpu_features or "none that matter",
            "levels": ", ".join(self.levels),
            "level in force": self.level_reason,
            "threads": self.threads_reason,
        }
        return "\n".join(f"{name + ':':16}{value}" for name, value in rows.items())

    __repr__ = __str__


def show_config() -> Config:
    """The version, CPU features, level and threads in force, with the reason for each choice.

    Returns it instead of printing it: at a prompt it shows itself, elsewhere ``print`` it.
    """
    return Config(
        version=_core.__version__,
        cpu_features=_core.cpu_features(),
        levels=_core.supported_levels(),
        level=_core.level(),
        level_reason=_core.level_reason(),
        threads=_core.num_threads(),
        threads_reason=_core.num_threads_reason(),
    )
