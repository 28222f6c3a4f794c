"""What convolutions and pools touch and take: guard pages, and the limit of scratch memory."""

from __future__ import annotations

import gc
import subprocess
import sys
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
    ((1, 16, 1, 1), 512, 5, {"padding": 100, "dilation": 40}),  # taps far apart
    ((1, 512, 3, 3000), 8, 3, {"padding": 1}),  # rows that are cut into pieces
    ((1, 1024, 3, 4500), 1024, 3, {"groups": 1024}),  # and strips of channels of them
    ((1, 1, 1, 200000), 4, 3, {"padding": 1}),
    ((1, 2, 64, 64), 2, 31, {"padding": 100, "dilation": 8, "groups": 2}),
    ((1, 4, 300, 300), 4, 3, {"stride": 150, "padding": 1}),  # many phases without taps
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


@pytest.mark.parametrize("channels", [64, 3000, 12000])
def test_scratch_of_winograd(channels, two_threads):
    x = np.zeros((1, channels, 12, 16), np.float32)
    w, y = np.zeros((16, channels, 3, 3), np.float32), np.empty((1, 12, 16, 16), np.float32)
    taken = scratch_of(
        lambda out: kernels.conv2d(x, w, padding=1, algorithm="winograd", out=out),
        y.transpose(0, 3, 1, 2),
    )
    assert taken <= 1.125 * (MOST_SCRATCH + 36 * 4 * w[:, :, 0, 0].size), f"{taken >> 10} KB"


def test_scratch_of_random_problems(rng, two_threads):
    for _ in range(12):
        n, h, width = (int(v) for v in rng.integers((1, 5, 5), (9, 90, 90)))
        c, o, kernel = (int(v) for v in rng.integers((1, 1, 1), (200, 200, 5)))
        how = {"stride": int(rng.integers(1, 4)), "padding": int(rng.integers(0, 3))}
        x, w = np.zeros((n, c, h, width), np.float32), np.zeros((o, c, kernel, kernel), np.float32)
        check_scratch(x, w, how)


def test_scratch_of_random_extremes(rng, two_threads):
    """Large strides, paddings and dilations, long and narrow images, as far as they stay small."""
    for _ in range(60):
        n, c, h, width, o, *kernel = (int(v) for v in 2 ** rng.uniform(0, (2, 9, 10, 10, 9, 4, 4)))
        stride, padding, dilation = (2 ** rng.uniform(0, (4, 7, 6), (2, 3))).astype(int).T.tolist()
        how = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}
        outs = [
            (size + 2 * pad - spread * (taps - 1) - 1) // step + 1
            for size, pad, spread, taps, step in zip(
                (h, width), padding, dilation, kernel, stride, strict=True
            )
        ]
        pixels = n * outs[0] * outs[1]
        if min(outs) < 1 or n * c * h * width > 1 << 20 or c * o * kernel[0] * kernel[1] > 1 << 20:
            continue
        if pixels * o > 1 << 20 or pixels * o * c * kernel[0] * kernel[1] > 1 << 26:
            continue
        x = np.zeros((n, c, h, width), np.float32)
        check_scratch(x, np.zeros((o, c, *kernel), np.float32), how)


# Images whose rows are taken in pieces, taps that are copied one by one: x, w, settings.
PIECES = [
    ((1, 512, 3, 1600), (4, 512, 3, 3), {"padding": 1}),
    ((1, 16, 3, 70000), (2, 16, 3, 3), {"padding": 1, "stride": (1, 3)}),
    ((1, 300, 3, 2001), (300, 1, 5, 3), {"groups": 300, "padding": 2, "dilation": (1, 2)}),
    ((1, 1, 70001, 1), (3, 1, 3, 1), {"padding": (1, 0)}),
    ((1, 16, 1, 1), (70, 16, 5, 5), {"padding": 100, "dilation": 40}),
    ((2, 40, 9, 9), (24, 40, 5, 5), {"padding": 20, "dilation": 10}),
    ((2, 8, 9, 7), (8, 1, 5, 4), {"groups": 8, "padding": 18, "dilation": (9, 12)}),
]


@pytest.mark.parametrize("layout", ["NCHW", "channels-last"])
@pytest.mark.parametrize(("x_shape", "w_shape", "how"), PIECES, ids=str)
def test_pieces_give_the_same_values(x_shape, w_shape, how, layout, rng):
    def ordered(image: np.ndarray) -> np.ndarray:
        return ref.to_nhwc(image).transpose(0, 3, 1, 2) if layout == "channels-last" else image

    x = ordered(rng.integers(-2, 3, x_shape).astype(np.float32))  # sums are exact
    w = rng.integers(-2, 3, w_shape).astype(np.float32)
    expected = ref.conv2d(x, w, **how)
    np.testing.assert_array_equal(kernels.conv2d(x, w, **how), expected)
    dy = ordered(rng.integers(-2, 3, expected.shape).astype(np.float32))
    np.testing.assert_array_equal(
        kernels.conv2d_backward_input(dy, w, x_shape, **how),
        ref.conv2d_backward_input(dy, w, x_shape, **how),
    )
    np.testing.assert_array_equal(
        kernels.conv2d_backward_weight(dy, x, w_shape, **how),
        ref.conv2d_backward_weight(dy, x, w_shape, **how),
    )


def test_pooled_pieces_give_the_same_values(rng):
    x = rng.integers(-2, 3, (1, 512, 4, 1603)).astype(np.float32)
    w = rng.integers(-2, 3, (5, 512, 3, 3)).astype(np.float32)
    y, taps = kernels.conv2d_relu_max_pool2d(x, w, padding=1, return_indices=True)
    whole = np.maximum(ref.conv2d(x, w, padding=1), 0)
    pooled, where = kernels.max_pool2d(whole, 2, return_indices=True)
    np.testing.assert_array_equal(y, pooled)
    np.testing.assert_array_equal(taps[pooled > 0], where[pooled > 0])


# The whole process at its peak, tables and all: 120 MB of weights, 31x31.
PEAK = """
import gc, sys
import numpy as np
import hotloop as hl
from hotloop import kernels as k

def value(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) << 10

hl.set_num_threads(2)
k.conv2d(np.ones((1, 8, 40, 40), np.float32), np.ones((8, 8, 3, 3), np.float32))  # threads
x, w = np.ones((1, 1024, 4, 4), np.float32), np.ones((32, 1024, 31, 31), np.float32)
y, dx, dw = np.ones((1, 32, 4, 4), np.float32), np.ones_like(x), np.ones_like(w)
images, few = np.ones((1, 64, 512, 512), np.float32), np.ones((4, 64, 3, 3), np.float32)
drawn = np.ones((1, 512, 512, 4), np.float32).transpose(0, 3, 1, 2)
hl._core.arena_trim()
gc.collect()
try:
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # from here on
    before = value("VmRSS:")
    assert value("VmHWM:") <= before + (8 << 20)
except (OSError, AssertionError):
    print("unknown")
    sys.exit()
{call}
print(value("VmHWM:") - before)
"""
WEIGHTS = 4 * 32 * 1024 * 31 * 31


@pytest.mark.parametrize(
    ("call", "weights"),
    [
        ("k.conv2d(x, w, padding=15, out=y)", WEIGHTS),
        ("k.conv2d_backward_input(y, w, x.shape, padding=15, out=dx)", WEIGHTS),
        ("k.conv2d_backward_weight(y, x, w.shape, padding=15, out=dw)", WEIGHTS),
        ("k.conv2d(images, few, padding=1, out=drawn)", 0),
        ("k.conv2d(images, few, padding=1, algorithm='winograd', out=drawn)", 0),
    ],
    ids=["forward", "input", "weight", "images", "winograd"],
)
def test_tables_and_copies_count_as_well(call, weights):
    text = PEAK.replace("{call}", call)
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=120
    )
    if done.stdout.strip() == "unknown":
        pytest.skip("the system does not tell the peak of a process")
    assert int(done.stdout) <= 1.125 * (MOST_SCRATCH + weights)


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
