"""conv2d on bfloat16: exact on small integers, rounded once at the end, f32 sums, all levels."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
from fences import run_fenced
from forced import DOT_LEVELS, level_fixture
from hotloop import DTypeError, ShapeError, kernels

ml_dtypes = pytest.importorskip("ml_dtypes")

BF16, F32 = ml_dtypes.bfloat16, np.float32

# n, c, h, w, o, kernel, settings
SHAPES = [
    (1, 1, 1, 1, 1, (1, 1), {}),
    (2, 3, 9, 7, 5, (3, 2), {}),
    (2, 1, 8, 8, 16, (3, 3), {"padding": 1}),  # an odd number of terms
    (1, 2, 5, 6, 3, (3, 3), {"padding": 3}),
    (2, 3, 4, 5, 4, (2, 2), {"padding": (5, 6)}),  # whole kernels outside the image
    (2, 4, 11, 13, 6, (2, 3), {"stride": (3, 2), "padding": (0, 1)}),
    (1, 3, 12, 14, 5, (3, 2), {"dilation": (3, 2), "padding": (4, 1)}),
    (2, 6, 7, 7, 9, (3, 3), {"groups": 3, "padding": 1}),
    (2, 5, 7, 7, 5, (3, 3), {"groups": 5, "padding": 1}),
    (2, 20, 5, 5, 70, (1, 1), {}),
    (1, 130, 9, 9, 65, (3, 3), {"padding": 1}),  # more words than a block
    (3, 16, 17, 13, 33, (3, 3), {"padding": 1}),
]


level = level_fixture(DOT_LEVELS)


def integers(rng, shape):
    """Small integers: products and sums are exact in f32."""
    return rng.integers(-3, 4, shape).astype(BF16)


def drawn(rng, shape):
    n, c, h, w, o, kernel, how = shape
    return (
        integers(rng, (n, c, h, w)),
        integers(rng, (o, c // how.get("groups", 1), *kernel)),
        integers(rng, o),
    )


def wide(*arrays):
    return [a.astype(F32) for a in arrays]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_on_integers(shape, level, rng):
    x, w, b = drawn(rng, shape)
    how = shape[-1]
    expected = kernels.conv2d(*wide(x, w, b), **how)
    got = kernels.conv2d(x, w, b, out=np.full(expected.shape, np.nan, F32), **how)
    np.testing.assert_array_equal(got, expected)
    narrow = kernels.conv2d(x, w, b.astype(F32), **how)
    assert narrow.dtype == BF16
    np.testing.assert_array_equal(narrow.view(np.uint16), expected.astype(BF16).view(np.uint16))
    assert narrow.transpose(0, 2, 3, 1).flags.c_contiguous
    last = (0, 2, 3, 1)
    for way in (
        np.ascontiguousarray(x.transpose(last)).transpose(0, 3, 1, 2),
        np.asfortranarray(x),
        x[:, ::-1, :, ::-1].copy()[:, ::-1, :, ::-1],
    ):
        np.testing.assert_array_equal(
            kernels.conv2d(way, w, b, **how).view(np.uint16), narrow.view(np.uint16)
        )
    named = kernels.conv2d(
        x.transpose(last), w.transpose(2, 3, 1, 0), b, layout="NHWC", activation="relu", **how
    )
    np.testing.assert_array_equal(
        named.astype(F32), np.maximum(expected, 0).astype(BF16).astype(F32).transpose(last)
    )


def test_values(level, rng):
    x = rng.standard_normal((2, 20, 9, 9)).astype(BF16)
    w = rng.standard_normal((33, 20, 3, 3)).astype(BF16)
    exact = ref.conv2d(x.astype(np.float64), w.astype(np.float64), padding=1)
    size = ref.conv2d(np.abs(x.astype(np.float64)), np.abs(w.astype(np.float64)), padding=1)
    out = np.empty(exact.shape, F32)
    ref.assert_close(kernels.conv2d(x, w, padding=1, out=out), exact, 180, kind="product",
                     scale=size)  # fmt: skip
    allowed = 2 * 180 * ref.eps(F32) * size + 2.0**-8 * np.abs(exact)
    got = kernels.conv2d(x, w, padding=1).astype(np.float64)
    assert (np.abs(got - exact) <= allowed * 1.01).all()


def test_nan_and_infinity(level, rng):
    x, w, b = drawn(rng, SHAPES[11])
    x[0, 3, 4, 5], x[1, 2, 7, 7] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        expected = kernels.conv2d(*wide(x, w + BF16(0.5), b), padding=1)
        got = kernels.conv2d(x, w + BF16(0.5), b, padding=1, out=np.empty(expected.shape, F32))
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[finite], expected[finite])


def test_the_same_bits_for_any_number_of_threads(rng):
    x = rng.standard_normal((3, 16, 17, 13)).astype(BF16)
    w = rng.standard_normal((33, 16, 3, 3)).astype(BF16)
    ref.assert_same_bits(lambda: kernels.conv2d(x, w, padding=1).view(np.uint16))


def test_errors(rng):
    x, w, b = drawn(rng, SHAPES[1])
    with pytest.raises(DTypeError):
        kernels.conv2d(x, w.astype(F32), b)
    with pytest.raises(DTypeError):
        kernels.conv2d(x, w, b.astype(np.float64))
    with pytest.raises(DTypeError):
        kernels.conv2d(x, w, b, out=np.empty((2, 5, 7, 6), np.float64))
    with pytest.raises(ShapeError, match="input channels"):
        kernels.conv2d(x[:, :2], w, b)
    with pytest.raises(ShapeError, match="b must have shape"):
        kernels.conv2d(x, w, b[:2])
    with pytest.raises(ValueError, match="residual must be None"):
        kernels.conv2d(x, w, b, residual=np.zeros((2, 5, 7, 6), BF16))
    with pytest.raises(ValueError, match="algorithm must be"):
        kernels.conv2d(x, w, b, algorithm="winograd")


def test_no_fence_is_touched():
    run_fenced(
        """
import ml_dtypes
from hotloop import kernels
rng = np.random.default_rng(0)
def filled(shape, at_end):
    a = fenced(shape, ml_dtypes.bfloat16, at_end)
    a[...] = rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
    return a
for level in LEVELS:
    with force_isa(level):
        for at_end in (False, True):
            for n, h, w, c, o in ((1, 5, 7, 3, 5), (2, 6, 6, 17, 33), (1, 20, 9, 16, 65)):
                x, k = filled((n, h, w, c), at_end), filled((3, 3, c, o), at_end)
                y = fenced((n, h, w, o), ml_dtypes.bfloat16, at_end)
                kernels.conv2d(x, k, filled((o,), at_end), padding=1, layout="NHWC", out=y)
print("no fence touched")
""",
        DOT_LEVELS,
    )
