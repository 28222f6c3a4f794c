"""Where the large arrays of a case lie: the same for every contender, whatever ran before.

A heap puts arrays where it has room. An update of such arrays takes up to twice as long when they
lie alike modulo 4 KB, or share L1's way predictor, than when they do not: a row's figure would
depend on the rows before it, and a ratio on luck. So each large array gets a mapping of its own,
on huge pages, aligned to cache lines, in turn at one of eight places modulo 4 KB, as the library's
own results are.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from .case import Arrays

_LARGE = 1 << 20  # bytes
_PLACES = (0, 2048, 1024, 3072, 512, 2560, 1536, 3584)
_HUGE = 1 << 21


class Placement:
    """Places arrays one after another."""

    def __init__(self) -> None:
        self._count = 0

    def _place(self, array: np.ndarray) -> np.ndarray:
        if array.nbytes < _LARGE or not array.flags.c_contiguous or array.dtype.hasobject:
            return array
        memory = mmap.mmap(-1, array.nbytes + _HUGE + 4096)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(memory, np.uint8)
        start = -whole.ctypes.data % _HUGE + _PLACES[self._count % len(_PLACES)]
        self._count += 1
        placed = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        placed[...] = array
        return placed

    def value(self, value: Any) -> Any:
        """An array, placed; a list or tuple of arrays, each placed; anything else as it is."""
        if type(value) is np.ndarray:
            return self._place(value)
        if type(value) in (list, tuple):
            return type(value)(self.value(item) for item in value)
        return value


def placed(arrays: Arrays) -> Arrays:
    """The arrays of a case, the large ones moved."""
    placement = Placement()
    return {name: placement.value(value) for name, value in arrays.items()}
