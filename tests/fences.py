"""Programs whose arrays lie between pages without access: a touch outside ends the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hotloop.kernels import force_isa

_FENCED = """
import ctypes, mmap
import numpy as np
from hotloop.kernels import force_isa
libc = ctypes.CDLL(None, use_errno=True)
page = mmap.PAGESIZE
kept = []

def fenced(shape, dtype, at_end):
    # Pages without access right before and right after the array's pages.
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    pages = -(-max(size, 1) // page)
    region = mmap.mmap(-1, (pages + 2) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    for fence in (start, start + (pages + 1) * page):
        assert libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0) == 0
    kept.append(region)
    offset = page + (pages * page - size if at_end else 0)
    bits = np.frombuffer(region, "V%d" % np.dtype(dtype).itemsize, int(np.prod(shape)), offset)
    return bits.view(dtype).reshape(shape)
"""


def supported(names):
    """Those of the levels that this CPU and this build have."""
    levels = []
    for name in names:
        try:
            with force_isa(name):
                levels.append(name)
        except ValueError:
            pass
    return levels


def run_fenced(program, names):
    """Runs a program that knows `fenced`, `force_isa`, `np` and the supported LEVELS."""
    script = f"LEVELS = {supported(names)!r}\n{_FENCED}{program}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ.copy()
    )
    if done.returncode:
        pytest.fail(f"exit {done.returncode} (-11: a fence was touched): {done.stderr}")
    assert "no fence touched" in done.stdout
