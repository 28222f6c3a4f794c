"""Tables kept from call to call: none may serve another geometry, whoever calls."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import hotloop as hl
import reference as ref
from emulated import ASAN
from hotloop import kernels

# One number apart from each other, in turn all that the tables depend on.
SETTINGS = [
    {"padding": 1},
    {"padding": (1, 0)},
    {"padding": (0, 1)},
    {"padding": 2},
    {"padding": 1, "stride": 2},
    {"padding": 1, "stride": (1, 2)},
    {"padding": 1, "stride": (2, 1)},
    {"padding": 2, "dilation": 2},
    {"padding": (2, 1), "dilation": (2, 1)},
    {"padding": 7, "dilation": 7},  # most of a slab is not read
    {"padding": (6, 7), "dilation": (6, 7)},
    {"padding": 1, "groups": 2},
    {"padding": 1, "groups": 4},
]


def arrays(rng, shape, dtype=np.float32):
    """The same numbers in three layouts: NCHW, channels-last, with gaps."""
    x = rng.uniform(-1, 1, shape).astype(dtype)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.zeros((*shape[:3], 2 * shape[3]), dtype)
    wide[..., ::2] = x
    return x, last, wide[..., ::2]


def draw(rng, shape, how, outputs):
    layouts = arrays(rng, shape)
    w = rng.uniform(-1, 1, (outputs, shape[1] // how.get("groups", 1), 3, 3)).astype(np.float32)
    expected = ref.conv2d(layouts[0], w, **how)
    residuals = arrays(rng, expected.shape)
    return layouts, w, how, expected, residuals


def check(rng, drawn):
    layouts, w, how, expected, residuals = drawn
    n, o, oh, ow = expected.shape
    residual = out = None
    which = rng.integers(5)
    if which == 1:
        out = np.empty(expected.shape, np.float32)
    elif which == 2:  # pixels with a gap behind their channels
        out = np.empty((n, oh, ow, o + 3), np.float32)[..., :o].transpose(0, 3, 1, 2)
    elif which >= 3:
        residual = residuals[which - 3]
        expected = expected + residual
    x = layouts[rng.integers(3)]
    y = kernels.conv2d(x, w, residual=residual, out=out, **how)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5, err_msg=f"{x.shape} {how}")


# Few at a time, so that their neighbours' tables are still kept.
SHAPES = [(2, 4, 8, 8), (3, 4, 8, 8), (2, 4, 7, 8), (2, 4, 8, 7), (2, 8, 8, 8)]


@pytest.mark.parametrize("how", SETTINGS, ids=str)
def test_sizes_do_not_share(how, rng, level):
    drawn = [draw(rng, shape, how, outputs) for shape in SHAPES for outputs in (8, 4)]
    for index in rng.integers(len(drawn), size=150):
        check(rng, drawn[index])


def test_settings_do_not_share(rng, level):
    drawn = [draw(rng, SHAPES[0], how, 8) for how in SETTINGS]
    for index in rng.integers(len(drawn), size=300):
        check(rng, drawn[index])


def test_gradients_and_pools_between(rng):
    x = rng.uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)
    w = rng.uniform(-1, 1, (16, 3, 3, 3)).astype(np.float32)
    dy = rng.uniform(-1, 1, (4, 16, 8, 8)).astype(np.float32)
    expected = ref.conv2d(x, w, padding=1)
    pooled = np.maximum(expected, 0).reshape(4, 16, 4, 2, 4, 2).max((3, 5))
    dx = kernels.conv2d_backward_input(dy, w, x.shape, padding=1)
    for _ in range(3):
        np.testing.assert_allclose(kernels.conv2d(x, w, padding=1), expected, rtol=1e-4, atol=1e-5)
        y = kernels.conv2d_relu_max_pool2d(x, w, padding=1)
        np.testing.assert_allclose(y, pooled, rtol=1e-4, atol=1e-5)
        again = kernels.conv2d_backward_input(dy, w, x.shape, padding=1)
        np.testing.assert_array_equal(again, dx)


def test_concurrent_callers_and_more_geometries_than_are_kept(rng):
    sizes = [(n, s) for n in (1, 2, 3, 5) for s in range(3, 28)]
    w = rng.uniform(-1, 1, (8, 2, 3, 3)).astype(np.float32)
    images = {size: rng.uniform(-1, 1, (size[0], 2, size[1], size[1])) for size in sizes}
    images = {size: x.astype(np.float32) for size, x in images.items()}
    threads = hl.get_num_threads()
    hl.set_num_threads(1)
    try:
        expected = {size: kernels.conv2d(x, w, padding=1) for size, x in images.items()}
    finally:
        hl.set_num_threads(threads)

    def call(seed):
        order = np.random.default_rng(seed).permutation(len(sizes))
        for size in (sizes[i] for i in order):
            y = kernels.conv2d(images[size], w, padding=1)
            np.testing.assert_array_equal(y, expected[size])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(12)))


def resident_bytes():
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pytest.skip("needs /proc")


@pytest.mark.skipif(ASAN, reason="the sanitizer keeps what is freed")
def test_long_tables_are_not_kept():
    w = np.ones((64, 1, 3, 1), np.float32)
    x, out = np.ones((1, 1, 60_100, 1), np.float32), np.empty((1, 64, 60_100, 1), np.float32)
    kernels.conv2d(x, w, padding=(1, 0), out=out)
    before = resident_bytes()
    for rows in range(60_000, 60_064):  # tables of a megabyte each
        kernels.conv2d(x[:, :, :rows], w, padding=(1, 0), out=out[:, :, :rows])
    grown = resident_bytes() - before
    assert grown < 16 << 20, f"{grown >> 20} MB"
