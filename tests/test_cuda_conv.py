"""Convolutions on the emulated GPU in three directions against float64: strides, padding, dilation,
groups, volumes and signals, any memory order, in several orders of the threads."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

from emulated import ORDERS, call, kernels, poisoned, thread_order, workspace

I64 = ctypes.c_int64


class Problem(ctypes.Structure):
    """ConvProblem of kernels/conv.h."""

    _fields_ = (
        ("dtype", ctypes.c_int32),
        *((name, I64) for name in ("n", "c", "d", "h", "w", "o", "kd", "kh", "kw")),
        *((name, I64) for name in ("out_d", "out_h", "out_w")),
        *((f"{what}_{a}", I64) for what in ("stride", "padding", "dilation") for a in "dhw"),
        ("groups", I64),
        ("interruptible", ctypes.c_bool),
        ("packed", ctypes.c_void_p),
    )


class Steps(ctypes.Structure):
    """ConvImage and ConvKernel."""

    _fields_ = (("data", ctypes.c_void_p), ("steps", I64 * 5))


class Pass(ctypes.Structure):
    """ConvPassArgs."""

    _fields_ = (
        ("problem", Problem),
        ("x", Steps),
        ("y", Steps),
        ("w", Steps),
        ("bias", ctypes.c_void_p),
        ("bias_stride", I64),
        ("activation", ctypes.c_int32),
        ("activation_alpha", ctypes.c_double),
        ("residual", Steps),
        ("scratch", ctypes.c_void_p),
    )


@pytest.fixture(scope="module")
def conv():
    return kernels("conv")


def steps(array: np.ndarray) -> Steps:
    """Axes (n, c, d, h, w), or (o, c, d, h, w) of weights."""
    return Steps(array.ctypes.data, (I64 * 5)(*(s // array.itemsize for s in array.strides)))


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 4, 1)).transpose(0, 4, 1, 2, 3)


class Case:
    """x (n, c, d, h, w), w (o, c / groups, kd, kh, kw); settings of three axes each."""

    def __init__(self, rng, x, w, stride=(1, 1, 1), padding=(0, 0, 0), dilation=(1, 1, 1), groups=1,
                 dtype=np.float32):  # fmt: skip
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        axes = zip(x[2:], w[2:], stride, padding, dilation)
        self.out = [(a + 2 * p - d * (k - 1) - 1) // s + 1 for a, k, s, p, d in axes]
        self.x, self.w = (rng.standard_normal(shape).astype(dtype) for shape in (x, w))
        self.dy = rng.standard_normal((x[0], w[0], *self.out)).astype(dtype)

    def taps(self, padded):
        """Each tap and the part of the padded image that it sees, with the groups apart."""
        n = padded.shape[0]
        for tap in np.ndindex(self.w.shape[2:]):
            where = tuple(
                slice(t * d, t * d + (o - 1) * s + 1, s)
                for t, d, s, o in zip(tap, self.dilation, self.stride, self.out)
            )
            view = padded[(slice(None), slice(None), *where)]
            yield tap, view.reshape(n, self.groups, self.w.shape[1], *self.out), where

    def expected(self):
        """(y, dx, dw) in float64."""
        g = self.groups
        pads = [(0, 0), (0, 0), *((p, p) for p in self.padding)]
        x = np.pad(self.x.astype(np.float64), pads)
        w = self.w.astype(np.float64).reshape(g, -1, *self.w.shape[1:])
        dy = self.dy.astype(np.float64).reshape(len(x), g, self.w.shape[0] // g, *self.out)
        y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
        for tap, view, where in self.taps(x):
            at = (..., *tap)
            y += np.einsum("ngcdhw,goc->ngodhw", view, w[at])
            dw[at] = np.einsum("ngcdhw,ngodhw->goc", view, dy)
            more = np.einsum("ngodhw,goc->ngcdhw", dy, w[at])
            dx[(slice(None), slice(None), *where)] += more.reshape(len(x), x.shape[1], *self.out)
        inner = tuple(slice(p, p + size) for p, size in zip(self.padding, self.x.shape[2:]))
        return (
            y.reshape(self.dy.shape),
            dx[(slice(None), slice(None), *inner)],
            dw.reshape(self.w.shape),
        )

    def run(self, conv, name, x, w, dy, bias=None, activation=0):
        args = Pass(x=steps(x), w=steps(w), y=steps(dy), activation=activation)
        p = args.problem
        p.dtype = 0 if x.dtype == np.float32 else 1
        p.n, p.c, p.d, p.h, p.w = x.shape
        p.o, _, p.kd, p.kh, p.kw = w.shape
        p.out_d, p.out_h, p.out_w = self.out
        for what, values in (
            ("stride", self.stride),
            ("padding", self.padding),
            ("dilation", self.dilation),
        ):
            for axis, value in zip("dhw", values):
                setattr(p, f"{what}_{axis}", value)
        p.groups = self.groups
        if bias is not None:
            args.bias, args.bias_stride = bias.ctypes.data, bias.strides[0] // bias.itemsize
        # 16-byte accesses want what cudaMalloc gives.
        room = np.full(workspace(conv, name, args) // 8 + 16, np.nan)
        skip = -room.ctypes.data % 64 // 8
        args.scratch = room.ctypes.data + 8 * skip
        call(conv, name, args)

    def forward(self, conv, x, w, **settings):
        y = channels_last(poisoned(self.dy.shape, x.dtype))
        self.run(conv, "conv_forward", x, w, y, **settings)
        return y

    def backward_input(self, conv, w, dy):
        dx = channels_last(poisoned(self.x.shape, w.dtype))
        self.run(conv, "conv_backward_input", dx, w, dy)
        return dx

    def backward_weight(self, conv, x, dy, w=None):
        dw = poisoned(self.w.shape, x.dtype) if w is None else w
        self.run(conv, "conv_backward_weight", x, dw, dy)
        return dw

    def check(self, conv):
        x, dy = channels_last(self.x), channels_last(self.dy)
        got = (
            self.forward(conv, x, self.w),
            self.backward_input(conv, self.w, dy),
            self.backward_weight(conv, x, dy),
        )
        for result, want in zip(got, self.expected()):
            eps = np.finfo(result.dtype).eps
            scale = 1 + np.abs(want).max(initial=0)
            np.testing.assert_allclose(result, want, rtol=0, atol=40 * eps * scale)


IMAGES = {
    "one pixel": ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), {}),
    "3x3": ((2, 8, 1, 9, 10), (12, 8, 1, 3, 3), {"padding": (0, 1, 1)}),
    "3 channels": ((2, 3, 1, 12, 11), (20, 3, 1, 5, 3), {"padding": (0, 2, 0)}),
    "stride": ((2, 4, 1, 11, 12), (8, 4, 1, 3, 3), {"stride": (1, 2, 3), "padding": (0, 1, 1)}),
    "wide stride": ((1, 4, 1, 9, 8), (4, 4, 1, 2, 1), {"stride": (1, 4, 3)}),
    "dilation": ((1, 5, 1, 14, 13), (6, 5, 1, 3, 3), {"dilation": (1, 2, 3), "padding": (0, 2, 1)}),
    "stride and dilation": (
        (2, 4, 1, 15, 14),
        (6, 4, 1, 4, 3),
        {"stride": (1, 4, 3), "dilation": (1, 2, 2), "padding": (0, 3, 2)},
    ),
    "groups": ((2, 24, 1, 6, 7), (36, 8, 1, 3, 2), {"groups": 3, "padding": (0, 1, 0)}),
    "depthwise": ((2, 9, 1, 8, 7), (18, 1, 1, 3, 3), {"groups": 9, "stride": (1, 2, 1)}),
    "1x1": ((3, 68, 1, 7, 6), (70, 68, 1, 1, 1), {}),
    "1x1 stride": ((2, 16, 1, 7, 7), (20, 16, 1, 1, 1), {"stride": (1, 2, 2)}),
    "signal": ((2, 6, 1, 1, 90), (7, 6, 1, 1, 5), {"stride": (1, 1, 2), "padding": (0, 0, 3)}),
    "volume": (
        (1, 4, 5, 6, 7),
        (6, 4, 3, 2, 3),
        {"stride": (2, 1, 2), "padding": (1, 0, 1), "dilation": (1, 2, 1)},
    ),
    "many pixels": ((4, 8, 1, 21, 20), (130, 8, 1, 3, 3), {"padding": (0, 1, 1)}),
    "no image": ((0, 4, 1, 5, 5), (4, 4, 1, 3, 3), {}),
}


@pytest.mark.parametrize("name", IMAGES)
def test_three_directions(conv, rng, name):
    x, w, settings = IMAGES[name]
    Case(rng, x, w, **settings).check(conv)


@pytest.mark.parametrize("name", ["3x3", "stride and dilation", "depthwise", "volume"])
def test_float64(conv, rng, name):
    x, w, settings = IMAGES[name]
    Case(rng, x, w, dtype=np.float64, **settings).check(conv)


def test_every_tile(conv, rng):
    """Enough pixels and channels for the large tiles, few terms."""
    Case(rng, (1, 4, 1, 62, 64), (70, 4, 1, 1, 1)).check(conv)
    Case(rng, (1, 1, 1, 125, 126), (65, 1, 1, 1, 1)).check(conv)
    Case(rng, (2, 129, 1, 3, 3), (130, 129, 1, 1, 1)).check(conv)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8])
def test_channels_at_the_edge_of_a_piece(conv, rng, channels):
    Case(rng, (1, channels, 1, 6, 5), (channels, channels, 1, 2, 3)).check(conv)


def test_any_memory_order(conv, rng):
    case = Case(rng, (2, 8, 1, 7, 6), (12, 8, 1, 3, 3), padding=(0, 1, 1), stride=(1, 2, 1))
    y, dx, dw = case.expected()
    big = np.zeros((2, 16, 1, 14, 6), np.float32)
    strided = big[:, ::2, :, ::2]
    strided[...] = case.x
    hwio = np.ascontiguousarray(case.w.transpose(2, 3, 4, 1, 0)).transpose(4, 3, 0, 1, 2)
    images = (case.x, channels_last(case.x), strided, case.x[:, ::-1].copy()[:, ::-1])
    for x, w in itertools.product(images, (case.w, hwio)):
        np.testing.assert_allclose(case.forward(conv, x, w), y, atol=1e-4)
    for dy, w in itertools.product((case.dy, channels_last(case.dy)), (case.w, hwio)):
        np.testing.assert_allclose(case.backward_input(conv, w, dy), dx, atol=1e-4)
    for x, dy in itertools.product(images, (case.dy, channels_last(case.dy))):
        to = poisoned(hwio.transpose(2, 3, 4, 1, 0).shape, np.float32).transpose(4, 3, 0, 1, 2)
        np.testing.assert_allclose(case.backward_weight(conv, x, dy, to), dw, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 12])
@pytest.mark.parametrize("activation", [0, 1, 2, 8])
def test_bias_and_activation(conv, rng, activation, groups):
    shape = (2, 12, 1, 6, 6), (12, 12 // groups, 1, 3, 3)
    case = Case(rng, *shape, padding=(0, 1, 1), groups=groups)
    bias = rng.standard_normal(24).astype(np.float32)[::2]
    y = case.forward(conv, channels_last(case.x), case.w, bias=bias, activation=activation)
    want = case.expected()[0] + bias[:, None, None, None]
    want = {0: want, 1: np.maximum(want, 0), 2: np.where(want < 0, 0 * want, want),
            8: np.tanh(want)}[activation]  # fmt: skip
    np.testing.assert_allclose(y, want, atol=1e-4)


@pytest.mark.parametrize("name", ["stride", "depthwise", "many pixels"])
def test_orders_of_threads_give_the_same_bits(conv, rng, name):
    x, w, settings = IMAGES[name]
    case = Case(rng, x, w, **settings)
    image, dy = channels_last(case.x), channels_last(case.dy)
    results = []
    for order in ORDERS:
        with thread_order(conv, order):
            parts = (
                case.forward(conv, image, case.w),
                case.backward_input(conv, case.w, dy),
                case.backward_weight(conv, image, dy),
            )
        results.append(b"".join(part.tobytes() for part in parts))
    assert len(set(results)) == 1
