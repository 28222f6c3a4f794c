"""Element-wise loops go up or down by where the output lies: the results are the same bits."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl

SIZES = (15, 16, 17, 255, 256, 257, 1000, 5003)
# Bytes, modulo 4096, that the output lies behind the first input; the second one lies between.
APART = (0, 4, 48, 64, 80, 512, 2044, 2048, 2052, 3072, 4032, 4092)


def _place(memory: np.ndarray, offset: int, values: np.ndarray) -> np.ndarray:
    """`values` in `memory`, `offset` bytes behind the first page that begins there."""
    start = -memory.ctypes.data % 4096 + offset
    place = memory[start : start + values.nbytes].view(values.dtype)
    place[:] = values
    return place


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["relu", "silu", "exp", "add", "silu_backward", "clip"])
def test_where_the_output_lies_changes_no_bit(level, name, dtype):
    rng = np.random.default_rng(3)
    function = getattr(hl.kernels, name)
    memory = [np.zeros(1 << 16, np.uint8) for _ in range(3)]
    for size in SIZES:
        x, y = (rng.standard_normal(size).astype(dtype) * 9 for _ in range(2))
        if size == 5003:
            x[::600] = 1e4  # far from 0: not for the polynomials
            x[7::1200] = np.nan
        inputs = (x, y) if name in ("add", "silu_backward") else (x,)
        more = (-1.0, 1.0) if name == "clip" else ()
        expected = function(*inputs, *more)
        for apart in APART:
            if apart % x.itemsize:
                continue
            offsets = (0, apart // 2 // 8 * 8)
            placed = [_place(m, o, v) for m, o, v in zip(memory, offsets, inputs)]
            out = _place(memory[2], apart, np.full(size + 1, 7, dtype))
            function(*placed, *more, out=out[:size])
            assert out[:size].tobytes() == expected.tobytes(), (size, apart)
            assert out[size] == 7
