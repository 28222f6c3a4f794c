"""Tells the machine's slow spells: a loop that only computes, run between the timings.

A virtual machine's cores are threads of the host: at times two of them share one core for seconds,
and everything on two threads takes twice as long. A figure from such a spell says nothing, and a
ratio with one foot in it less than nothing.
"""

from __future__ import annotations

import time

import hotloop as hl
from hotloop import _core

_FLOPS = 2e7  # for each thread: about 0.2 ms
_FULL = 0.8  # of the best rate seen: a shared core gives about 0.5


class Gauge:
    """Rates of multiply-adds on all threads of this process, against the best seen so far."""

    def __init__(self, threads: int, patience: float = 5.0) -> None:
        self.patience = patience  # seconds
        self._threads = threads
        self._best = max(self._rate() for _ in range(20))

    def _rate(self) -> float:
        """The best of three short runs: one may meet an interrupt."""
        flops = _FLOPS * self._threads
        before = hl.get_num_threads()
        hl.set_num_threads(self._threads)
        try:
            taken = []
            for _ in range(3):
                start = time.perf_counter()
                _core.probe_fma(flops)
                taken.append(time.perf_counter() - start)
        finally:
            hl.set_num_threads(before)
        return flops / min(taken)

    def full(self) -> bool:
        """Whether the machine runs at full rate now."""
        rate = self._rate()
        self._best = max(self._best, rate)
        return rate >= _FULL * self._best

    def wait(self) -> bool:
        """Waits until it does, up to `patience`; whether it came to that."""
        end = time.perf_counter() + self.patience
        while not self.full():
            if time.perf_counter() > end:
                return False
            time.sleep(0.1)
        return True
