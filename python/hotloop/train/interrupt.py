"""Ctrl-C that waits until an update of the weights is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["InterruptShield"]


class InterruptShield:
    """`with InterruptShield() as shield:` takes over SIGINT; `hold` and `release` put it off.

    Outside the main thread, and where SIGINT is ignored or handled by C code, it does nothing.
    """

    def __init__(self) -> None:
        self._holding = False
        self._pending: tuple[int, FrameType | None] | None = None
        self._before: Any = None

    def __enter__(self) -> InterruptShield:
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._holding:
            self._pending = (number, frame)
        else:
            self._before(number, frame)

    def hold(self) -> None:
        """From here on an interruption waits."""
        self._holding = True

    def release(self) -> None:
        """Lets an interruption that waited happen now."""
        self._holding = False
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._before(*pending)
