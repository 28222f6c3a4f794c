"""conv2d by Winograd's algorithm: the direct sum within its error, the edges of tiles, refusals.

Tolerance: the transforms multiply and add numbers that grow by a factor of about 10 in each of two
directions, so that a sum of `terms` products of magnitudes up to 1 may err by some 100 roundings of
its size more than the direct sum; 50 * terms * eps is four times the largest error seen.
"""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
from fences import run_fenced
from hotloop import DTypeError, OutputError, ShapeError, kernels

# n, c, h, w, o, padding: tiles of 4x4 pixels, vectors, blocks of 16 and panels of 64 channels,
# several blocks of tiles.
SHAPES = [
    (1, 1, 3, 3, 1, 0),
    (1, 1, 1, 1, 1, 1),
    (2, 3, 6, 6, 5, 0),
    (2, 3, 6, 7, 5, 1),
    (1, 4, 9, 5, 3, (3, 0)),
    (1, 2, 4, 4, 3, (5, 6)),  # whole tiles outside the image
    (1, 16, 12, 11, 16, 1),
    (3, 17, 8, 8, 15, 1),
    (1, 15, 5, 13, 65, 1),
    (1, 33, 7, 4, 130, 1),
    (40, 5, 4, 4, 20, 1),
    (2, 64, 14, 14, 64, 1),
    (1, 8, 57, 41, 17, 1),
]


def drawn(rng, shape):
    n, c, h, w, o, _ = shape
    draw = rng.uniform
    return (
        draw(-1, 1, (n, c, h, w)).astype(np.float32),
        draw(-1, 1, (o, c, 3, 3)).astype(np.float32),
        draw(-1, 1, o).astype(np.float32),
    )


def assert_near(got, x, w, b, padding):
    expected = ref.conv2d(x, w, b, padding=padding)
    ref.assert_close(got, expected, 25 * w[0].size, kind="product", scale=1)


def winograd(x, w, b=None, **how):
    return kernels.conv2d(x, w, b, algorithm="winograd", **how)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values(shape, level, rng):
    x, w, b = drawn(rng, shape)
    padding = shape[-1]
    got = winograd(x, w, b, padding=padding)
    assert_near(got, x, w, b, padding)
    assert got.strides == kernels.conv2d(x, w, b, padding=padding).strides
    last = (0, 2, 3, 1)
    named = winograd(
        np.ascontiguousarray(x.transpose(last)), w.transpose(2, 3, 1, 0), b,
        padding=padding, layout="NHWC",
    )  # fmt: skip
    np.testing.assert_array_equal(named, got.transpose(last))
    wide = np.repeat(np.repeat(x.transpose(last), 2, 1), 3, 2).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(winograd(wide[:, :, ::2, ::3], w, b, padding=padding), got)
    np.testing.assert_array_equal(
        winograd(x[:, :, ::-1].copy()[:, :, ::-1], w, b, padding=padding), got
    )


def test_random_sizes(level, rng):
    for _ in range(25):
        n, h, w = (int(v) for v in rng.integers(1, 20, 3))
        c, o = (int(v) for v in rng.integers(1, 80, 2))
        padding = int(rng.integers(1, 3))
        x, k, b = drawn(rng, (n, c, h, w, o, padding))
        assert_near(winograd(x, k, b, padding=padding), x, k, b, padding)


def test_the_error_is_small_beside_the_result(level, rng):
    """The tolerance grows with the terms, the error with their root."""
    x, w, _ = drawn(rng, (1, 64, 28, 28, 64, 1))
    exact = kernels.conv2d(x.astype(np.float64), w.astype(np.float64), padding=1)
    assert np.abs(winograd(x, w, padding=1) - exact).max() < 1e-5 * np.abs(exact).max()


def test_epilogue(level, rng):
    x, w, b = drawn(rng, (2, 5, 9, 7, 19, 1))
    plain = winograd(x, w, b, padding=1)
    residual = rng.uniform(-1, 1, plain.shape).astype(np.float32)
    for activation in ("relu", "gelu"):
        expected = getattr(kernels, activation)(plain + residual)
        got = winograd(x, w, b, padding=1, residual=residual, activation=activation)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    out = np.empty_like(plain)
    assert winograd(x, w, b, padding=1, out=out) is out
    np.testing.assert_array_equal(out, plain)
    with pytest.raises(OutputError):
        winograd(x, w[:5], padding=1, out=x)


@pytest.mark.parametrize("shape", SHAPES[-4:], ids=str)
def test_the_same_bits_for_any_number_of_threads(shape, rng):
    x, w, b = drawn(rng, shape)
    ref.assert_same_bits(lambda: winograd(x, w, b, padding=1))


def test_what_it_does_not_take(rng):
    x, w, _ = drawn(rng, (2, 6, 9, 9, 4, 1))
    with pytest.raises(ShapeError, match="got 3x3 kernels with stride 2x1, dilation 1x1"):
        winograd(x, w, stride=(2, 1))
    with pytest.raises(ShapeError, match="got 3x3 kernels with stride 1x1, dilation 1x2"):
        winograd(x, w, dilation=(1, 2))
    with pytest.raises(ShapeError, match="got 2x3 kernels"):
        winograd(x, w[:, :, 1:])
    with pytest.raises(ShapeError, match=r"and 2 groups; use algorithm=\"direct\""):
        winograd(x, w[:, :3], groups=2)
    with pytest.raises(DTypeError, match="float32, got float64"):
        winograd(x.astype(np.float64), w.astype(np.float64))
    with pytest.raises(ValueError, match="ConvPack"):
        winograd(x, kernels.conv_pack(w))
    with pytest.raises(ValueError, match=r'"direct" or "winograd", got \'fft\''):
        kernels.conv2d(x, w, algorithm="fft")


def test_no_fence_is_touched():
    run_fenced(
        """
from hotloop import kernels
rng = np.random.default_rng(0)
def filled(shape, at_end):
    a = fenced(shape, np.float32, at_end)
    a[...] = rng.standard_normal(shape)
    return a
for level in LEVELS:
    with force_isa(level):
        for at_end in (False, True):
            for n, h, w, c, o in ((1, 5, 7, 3, 5), (2, 6, 6, 17, 33), (1, 20, 9, 16, 65)):
                x, k = filled((n, h, w, c), at_end), filled((3, 3, c, o), at_end)
                b, y = filled((o,), at_end), fenced((n, h, w, o), np.float32, at_end)
                kernels.conv2d(x, k, b, padding=1, layout="NHWC", out=y, algorithm="winograd",
                               residual=filled(y.shape, at_end))
print("no fence touched")
""",
        ("generic", "avx2", "avx512"),
    )
