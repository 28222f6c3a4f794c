"""What convolutions and pools touch and take: guard pages, and the limit of scratch memory."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

import hotloop as hl
import reference as ref
from fences import run_fenced
from hotloop import _core, kernels

MOST_SCRATCH = 16 << 20

# x (n, c, h, w), outputs, kernel, settings
SHAPES = [
    ((8, 64, 56, 56), 64, 3, {"padding": 1}),
    ((2, 3, 224, 224), 64, 7, {"padding": 3, "stride": 2}),
    ((8, 512, 28, 28), 128, 1, {}),
    ((2, 512, 56, 56), 1024, 1, {}),  # rows of A that a product packs
    ((16, 256, 40, 40), 64, 1, {}),
    ((1, 1024, 14, 14), 2048, 1, {"stride": 2}),
    ((1, 64, 640, 640), 8, 1, {"stride": 2}),  # more pixels are picked than may be copied
    ((6, 64, 256, 256), 8, 1, {"stride": 2}),  # the same, an image at a time
    ((8, 512, 7, 7), 512, 3, {"padding": 1}),
    ((4, 256, 28, 28), 256, 3, {"padding": 1, "groups": 256}),
    ((4, 128, 28, 28), 128, 3, {"padding": 1, "groups": 4}),
    ((1, 2, 1200, 1200), 3, 5, {"padding": 2}),
    ((1, 64, 3, 5000), 64, 3, {"padding": 1}),  # long rows
    ((64, 32, 32, 32), 32, 1, {}),
]


def scratch_of(call: Callable[[np.ndarray], object], out: np.ndarray) -> int:
    """Bytes that a call takes from the arena: what it keeps, since `out` is the caller's."""
    gc.collect()
    _core.arena_trim()
    call(out)
    return int(_core.arena_stats()["cached_bytes"])


@pytest.fixture
def two_threads():
    before = hl.get_num_threads()
    hl.set_num_threads(2)
    yield
    hl.set_num_threads(before)


def check_scratch(x: np.ndarray, w: np.ndarray, how: dict) -> None:
    y = kernels.conv2d(x, w, **how)
    dx, dw = ref.to_nhwc(x).transpose(0, 3, 1, 2), np.empty_like(w)  # as results are stored
    # Whole blocks of columns, and a class of sizes that may be an eighth larger.
    columns = -(-w.shape[0] // 16) * 16 if how.get("groups", 1) == 1 else 16 * w.shape[0]
    rows = -(-w.shape[1] // 16) * 16
    packed = 4 * columns * rows * w.shape[2] * w.shape[3]
    limit = 1.125 * (MOST_SCRATCH + packed)
    calls = {
        "forward": (lambda out: kernels.conv2d(x, w, **how, out=out), np.empty_like(y)),
        "input": (lambda out: kernels.conv2d_backward_input(y, w, x.shape, **how, out=out), dx),
        "weight": (lambda out: kernels.conv2d_backward_weight(y, x, w.shape, **how, out=out), dw),
    }
    for name, (call, out) in calls.items():
        taken = scratch_of(call, out)
        assert taken <= limit, f"{name} of {x.shape}, {w.shape}, {how}: {taken >> 10} KB"


@pytest.mark.parametrize("layout", ["NCHW", "channels-last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scratch_stays_within_its_limit(shape, layout, two_threads):
    x_shape, outputs, kernel, how = shape
    x = np.zeros(x_shape, np.float32)
    if layout == "channels-last":
        x = ref.to_nhwc(x).transpose(0, 3, 1, 2)
    w = np.zeros((outputs, x_shape[1] // how.get("groups", 1), kernel, kernel), np.float32)
    check_scratch(x, w, how)


def test_scratch_of_random_problems(rng, two_threads):
    for _ in range(12):
        n, h, width = (int(v) for v in rng.integers((1, 5, 5), (9, 90, 90)))
        c, o, kernel = (int(v) for v in rng.integers((1, 1, 1), (200, 200, 5)))
        how = {"stride": int(rng.integers(1, 4)), "padding": int(rng.integers(0, 3))}
        x, w = np.zeros((n, c, h, width), np.float32), np.zeros((o, c, kernel, kernel), np.float32)
        check_scratch(x, w, how)


GUARDED = """
import itertools
from hotloop import kernels as k
rng = np.random.default_rng(0)

def filled(shape, dtype, at_end):
    a = fenced(shape, dtype, at_end)
    a[...] = rng.integers(-2, 3, shape)
    return a

def last(shape):
    n, c, h, w = shape
    return (n, h, w, c)

# n, c, h, w, o, kernel, stride, padding, groups
CASES = (
    (1, 1, 5, 5, 1, 3, 1, 1, 1), (2, 3, 7, 6, 17, 3, 1, 1, 1), (2, 17, 5, 4, 33, 1, 1, 0, 1),
    (1, 64, 6, 6, 64, 1, 2, 0, 1), (2, 130, 4, 5, 70, 3, 1, 1, 1), (1, 5, 9, 9, 5, 3, 2, 1, 5),
    (2, 33, 8, 7, 33, 3, 1, 1, 33), (1, 12, 6, 6, 8, 2, 1, 0, 4), (1, 3, 11, 11, 20, 5, 2, 2, 1),
    (3, 18, 6, 5, 18, 5, 1, 2, 18), (1, 128, 12, 12, 66, 1, 1, 0, 1), (1, 20, 1, 30, 9, 1, 1, 0, 1),
    (1, 200, 3, 4, 250, 3, 1, 1, 1),
)

def convolve(case, dtype, layout, at_end):
    n, c, h, w, o, kernel, stride, padding, groups = case
    how = dict(stride=stride, padding=padding, groups=groups, layout=layout)
    image = last if layout == "NHWC" else tuple
    weights = (o, c // groups, kernel, kernel)
    weights = weights[2:] + weights[1::-1] if layout == "NHWC" else weights
    x, wt = filled(image((n, c, h, w)), dtype, at_end), filled(weights, dtype, at_end)
    b = filled((o,), dtype, at_end)
    expected = k.conv2d(x.copy(), wt.copy(), b.copy(), **how)
    y = fenced(expected.shape, dtype, at_end)
    k.conv2d(x, wt, b, **how, out=y)
    assert (y == expected).all()
    dx, dw = fenced(x.shape, dtype, at_end), fenced(wt.shape, dtype, at_end)
    k.conv2d_backward_input(y, wt, x.shape, **how, out=dx)
    k.conv2d_backward_weight(y, x, wt.shape, **how, out=dw)
    copies = y.copy(), x.copy(), wt.copy()
    assert (dx == k.conv2d_backward_input(copies[0], copies[2], x.shape, **how)).all()
    assert (dw == k.conv2d_backward_weight(copies[0], copies[1], wt.shape, **how)).all()

def pool(c, window, dtype, layout, at_end):
    kernel, stride, padding = window
    how = dict(stride=stride, padding=padding, layout=layout)
    back = dict(how, kernel_size=kernel)
    image = last if layout == "NHWC" else tuple
    x = filled(image((2, c, 7, 6)), dtype, at_end)
    y, taps = k.max_pool2d(x, kernel, return_indices=True, **how)
    dy, dx = filled(y.shape, dtype, at_end), fenced(x.shape, dtype, at_end)
    where, out = fenced(taps.shape, taps.dtype, at_end), fenced(y.shape, dtype, at_end)
    where[...] = taps
    k.max_pool2d(x, kernel, out=out, **how)
    assert (out == y).all()
    k.max_pool2d_backward(dy, where, x.shape, out=dx, **back)
    k.avg_pool2d(x, kernel, out=out, **how)
    k.avg_pool2d_backward(dy, x.shape, out=dx, **back)

for level in LEVELS:
    with force_isa(level):
        for how in itertools.product((np.float32, np.float64), ("NCHW", "NHWC"), (False, True)):
            for case in CASES:
                convolve(case, *how)
            for c, window in itertools.product((1, 5, 16, 33), ((2, 2, 0), (3, 2, 1), (3, 1, 1))):
                pool(c, window, *how)
            kept.clear()
print("no fence touched")
"""


def test_nothing_is_touched_outside_of_the_arrays():
    run_fenced(GUARDED, ("generic", "avx2", "avx512"))
