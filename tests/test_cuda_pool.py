"""Pooling on the emulated GPU: the CPU's kernels, which are tested against float64, are the
reference, values and taps; in several orders of the threads."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import hotloop as hl
from emulated import ORDERS, call, kernels, poisoned, thread_order

I64 = ctypes.c_int64


class Axis(ctypes.Structure):
    """PoolAxis of kernels/pool.h, without the tables."""

    _fields_ = (
        *((name, I64) for name in ("size", "out", "kernel", "dilation")),
        ("tables", ctypes.c_void_p * 6),
        ("stride", I64),
        ("padding", I64),
        ("count_padding", ctypes.c_bool),
    )


class Args(ctypes.Structure):
    """PoolArgs."""

    _fields_ = (
        ("dtype", ctypes.c_int32),
        ("source", ctypes.c_void_p),
        ("result", ctypes.c_void_p),
        ("taps", ctypes.c_void_p),
        ("tap_bytes", ctypes.c_int32),
        ("one_count", ctypes.c_bool),
        ("n", I64),
        ("c", I64),
        ("h", Axis),
        ("w", Axis),
        *((name, I64 * 4) for name in ("source_strides", "result_strides", "tap_strides")),
        ("band", I64),
        ("border", ctypes.c_void_p),
        ("border_stride", I64),
        ("thread", ctypes.c_void_p),
    )


@pytest.fixture(scope="module")
def pool():
    return kernels("pool")


def steps(array):
    return (I64 * 4)(*(step // array.itemsize for step in array.strides))


class Case:
    """x (n, h, w, c); adaptive where `out` is given."""

    def __init__(self, x, kernel=(1, 1), out=None, stride=None, padding=(0, 0), dilation=(1, 1),
                 ceil_mode=False, count_include_pad=True):  # fmt: skip
        self.x, self.kernel, self.adaptive, self.ceil_mode = x, kernel, out, ceil_mode
        self.stride, self.padding, self.dilation = stride or kernel, padding, dilation
        self.count_include_pad = count_include_pad

    def how(self, is_max):
        if self.adaptive:
            return {"layout": "NHWC"}
        how = {"kernel_size": self.kernel, "stride": self.stride, "padding": self.padding,
               "ceil_mode": self.ceil_mode, "layout": "NHWC"}  # fmt: skip
        more = {"dilation": self.dilation} if is_max else {}
        return how | (more or {"count_include_pad": self.count_include_pad})

    def on_cpu(self, is_max):
        """Values, taps, and a function for dx."""
        k = hl.kernels
        first = (self.adaptive,) if self.adaptive else ()
        prefix = "adaptive_" if self.adaptive else ""
        how = self.how(is_max)
        if is_max:
            y, taps = getattr(k, prefix + "max_pool2d")(self.x, *first, return_indices=True, **how)
        else:
            y, taps = getattr(k, prefix + "avg_pool2d")(self.x, *first, **how), None
        back = getattr(k, prefix + ("max" if is_max else "avg") + "_pool2d_backward")
        arrays = (taps,) if is_max else ()
        settings = {**how, "output_size": self.adaptive} if self.adaptive else how
        return y, taps, lambda dy: back(dy, *arrays, x_shape=self.x.shape, **settings)

    def run(self, pool, is_max, backward, source, result, taps):
        args = Args(dtype=0 if source.dtype == np.float32 else 1, n=self.x.shape[0],
                    c=self.x.shape[3], source=source.ctypes.data, result=result.ctypes.data,
                    source_strides=steps(source), result_strides=steps(result))  # fmt: skip
        small = source if backward else result
        for axis, i in ((args.h, 0), (args.w, 1)):
            axis.size, axis.out = self.x.shape[1 + i], small.shape[1 + i]
            if self.adaptive:
                spans = [
                    -(-(o + 1) * axis.size // axis.out) - o * axis.size // axis.out
                    for o in range(axis.out)
                ]
                axis.kernel, axis.dilation = max(spans), 1
                continue
            axis.kernel, axis.stride, axis.padding = self.kernel[i], self.stride[i], self.padding[i]
            axis.dilation = self.dilation[i] if is_max else 1
            axis.count_padding = self.count_include_pad
        if taps is not None:
            args.taps, args.tap_bytes = taps.ctypes.data, taps.itemsize
            args.tap_strides = steps(taps)
        call(pool, ("max" if is_max else "avg") + "_pool" + "_backward" * backward, args)

    def check(self, pool, rng, is_max):
        y, taps, dx_of = self.on_cpu(is_max)
        got = poisoned(y.shape, y.dtype)
        got_taps = None if taps is None else np.full(taps.shape, 255, taps.dtype)
        self.run(pool, is_max, False, self.x, got, got_taps)
        np.testing.assert_allclose(got, y, rtol=4 * np.finfo(y.dtype).eps)
        if is_max:
            np.testing.assert_array_equal(got_taps, taps)
        dy = rng.standard_normal(y.shape).astype(y.dtype)
        want = dx_of(dy)
        dx = poisoned(self.x.shape, y.dtype)
        self.run(pool, is_max, True, dy, dx, got_taps)
        np.testing.assert_allclose(dx, want, rtol=0, atol=16 * np.finfo(y.dtype).eps)
        return got.tobytes() + dx.tobytes()


CASES = {
    "2x2": ((2, 8, 6, 8), {"kernel": (2, 2)}),
    "3x3 over": ((2, 9, 8, 5), {"kernel": (3, 3), "stride": (2, 1), "padding": (1, 1)}),
    "ragged": ((1, 7, 10, 4), {"kernel": (3, 2), "stride": (2, 3), "ceil_mode": True}),
    "no padding counted": (
        (2, 7, 7, 3),
        {"kernel": (3, 4), "stride": (2, 2), "padding": (1, 2), "count_include_pad": False},
    ),
    "apart": ((1, 9, 9, 4), {"kernel": (4, 2), "stride": (5, 3), "padding": (0, 1)}),
    "whole": ((3, 6, 5, 12), {"kernel": (6, 5)}),
    "many taps": ((1, 20, 19, 2), {"kernel": (17, 16), "stride": (2, 2)}),
    "adaptive": ((2, 11, 7, 8), {"out": (4, 3)}),
    "adaptive to more": ((1, 3, 5, 3), {"out": (7, 8)}),
    "one pixel": ((1, 1, 1, 1), {"kernel": (1, 1)}),
}


@pytest.mark.parametrize("is_max", [True, False], ids=["max", "avg"])
@pytest.mark.parametrize("name", CASES)
def test_as_on_the_cpu(pool, rng, dtype, name, is_max):
    shape, settings = CASES[name]
    Case(rng.standard_normal(shape).astype(dtype), **settings).check(pool, rng, is_max)


def test_dilated_windows(pool, rng):
    x = rng.standard_normal((1, 12, 11, 6)).astype(np.float32)
    case = Case(x, kernel=(3, 2), stride=(2, 1), padding=(1, 1), dilation=(2, 3))
    case.check(pool, rng, True)


def test_nan_wins(pool, rng):
    x = rng.standard_normal((1, 6, 6, 4)).astype(np.float32)
    x[0, 2, 3] = np.nan
    x[0, 4, 4, 1] = -np.inf
    Case(x, kernel=(3, 3), stride=(1, 1)).check(pool, rng, True)


def test_any_memory_order(pool, rng):
    """Channels first, every other channel, rows backwards."""
    whole = rng.standard_normal((2, 12, 8, 6)).astype(np.float32)
    for x in (whole.transpose(0, 2, 3, 1), whole[:, :, :, ::2], whole[:, ::-1]):
        for is_max in (True, False):
            Case(x, kernel=(2, 3), stride=(2, 1)).check(pool, rng, is_max)


@pytest.mark.parametrize("is_max", [True, False], ids=["max", "avg"])
def test_orders_of_threads_give_the_same_bits(pool, rng, is_max):
    x = rng.standard_normal((2, 9, 9, 40)).astype(np.float32)
    seeds = rng.integers(1 << 30)
    results = set()
    for order in ORDERS:
        with thread_order(pool, order):
            case = Case(x, kernel=(3, 3), stride=(2, 2))
            results.add(case.check(pool, np.random.default_rng(seeds), is_max))
    assert len(results) == 1
