"""csrc/kernels/cuda/embedding.cu on the emulator: the bits of the CPU's kernels."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop.kernels as hk
from cuda_args import EmbeddingArgs, EmbeddingBackwardArgs, dtype_code, pointer, small
from emulated import call, kernels, poisoned, thread_order, workspace


@pytest.mark.parametrize("width", [1, 4, 7, 64, 130])
@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_forward(rng, dtype, index, width):
    table = rng.standard_normal((40, width)).astype(dtype)[::-2]
    indices = rng.integers(0, 20, 33).astype(index)
    out = poisoned((33, width), dtype)
    args = EmbeddingArgs(dtype_code(table), 33, width, pointer(indices), index is np.int64)
    args.weight, args.weight_stride, args.out = pointer(table), -2 * width, pointer(out)
    args.rows = len(table)
    call(kernels("embedding"), "embedding", args, 33)
    np.testing.assert_array_equal(out, table[indices])


# positions, rows of the table, width: one pass of the sort, two, three; tiles and hot rows
CASES = [(0, 5, 4), (1, 1, 3), (70, 9, 33), (3000, 4, 8), (2500, 300, 4), (600, 66_000, 1)]
CASES = [case for case in CASES if small(max(case[0], case[1]) // 2)]


@pytest.mark.parametrize("by_frequency", [False, True])
@pytest.mark.parametrize(("positions", "rows", "width"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backward_has_the_bits_of_the_cpu(rng, dtype, positions, rows, width, by_frequency):
    index = np.int32 if rows > 10 else np.int64
    indices = rng.integers(0, rows, positions).astype(index)
    if rows > 100:
        indices[:200] = 77  # a hot row
    dy = rng.standard_normal((positions, width)).astype(dtype)
    padding = 2 if rows > 2 else None
    want = hk.embedding_backward(
        dy, indices, rows, padding_idx=padding, scale_grad_by_freq=by_frequency
    )
    for order in ("forward", "random") if rows < 1000 else ("random",):
        got = poisoned((rows, width), dtype)
        args = EmbeddingBackwardArgs(dtype_code(dy), positions, width, rows, pointer(indices))
        args.wide, args.padding = index is np.int64, -1 if padding is None else padding
        args.by_frequency, args.dy, args.dy_stride = by_frequency, pointer(dy), width
        args.dweight = pointer(got)
        scratch = np.full(workspace(kernels("embedding"), "embedding_backward", args) // 8, -1)
        args.scratch = pointer(scratch)
        with thread_order(kernels("embedding"), order):
            call(kernels("embedding"), "embedding_backward", args, rows)
        assert got.tobytes() == want.tobytes()
