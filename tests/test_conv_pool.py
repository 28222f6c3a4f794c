"""conv2d_relu_max_pool2d: the bits of the three functions in a row, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
from fences import run_fenced
from hotloop import DTypeError, OutputError, ShapeError, kernels

# n, c, h, w, o, kernel, settings
SHAPES = [
    (1, 1, 2, 2, 1, (1, 1), {"padding": 1}),
    (2, 1, 8, 8, 16, (3, 3), {"padding": 1}),
    (2, 3, 9, 7, 5, (3, 2), {}),
    (1, 2, 5, 6, 3, (3, 3), {"padding": 3}),
    (2, 4, 11, 13, 6, (3, 3), {"stride": 2, "padding": 1}),
    (2, 4, 13, 15, 6, (2, 3), {"stride": (3, 2), "padding": (0, 1)}),
    (1, 3, 12, 15, 5, (3, 2), {"dilation": (3, 2), "padding": (4, 1)}),
    (2, 6, 7, 8, 9, (3, 3), {"groups": 3, "padding": 1}),
    (2, 5, 7, 7, 5, (3, 3), {"groups": 5, "padding": 1}),  # depthwise
    (1, 17, 6, 6, 67, (3, 3), {"padding": 1}),
    (1, 64, 5, 4, 33, (3, 3), {"padding": 1}),  # more terms than one run
    (40, 2, 5, 5, 4, (2, 2), {}),  # several images in one piece of work
    (1, 8, 41, 61, 8, (3, 3), {"padding": 1}),  # several pieces in one image
    (3, 3, 31, 30, 130, (5, 5), {"padding": 2}),  # panels
]


def drawn(rng, shape, dtype):
    n, c, h, w, o, kernel, how = shape
    x = rng.uniform(-1, 1, (n, c, h, w)).astype(dtype)
    weight = rng.uniform(-1, 1, (o, c // how.get("groups", 1), *kernel)).astype(dtype)
    return x, weight, rng.uniform(-1, 1, o).astype(dtype)


def chain(x, w, b, how):
    y = kernels.relu(kernels.conv2d(x, w, b, **how))
    pooled, taps = kernels.max_pool2d(y, 2, return_indices=True)
    return y, pooled, np.where(pooled <= 0, 4, taps)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bits_of_the_chain(shape, dtype, level, rng):
    x, w, b = drawn(rng, shape, dtype)
    how = shape[-1]
    y, pooled, taps = chain(x, w, b, how)
    got, indices = kernels.conv2d_relu_max_pool2d(x, w, b, return_indices=True, **how)
    assert got.tobytes() == pooled.tobytes()
    np.testing.assert_array_equal(indices, taps)
    np.testing.assert_array_equal(kernels.conv2d_relu_max_pool2d(x, w, b, **how), pooled)
    assert got.strides == pooled.strides
    assert indices.dtype == np.uint8
    dy = rng.standard_normal(got.shape).astype(dtype)
    expected = kernels.relu_backward(
        kernels.max_pool2d_backward(
            dy, kernels.max_pool2d(y, 2, return_indices=True)[1], y.shape, kernel_size=2
        ),
        y,
    )
    np.testing.assert_array_equal(kernels.relu_max_pool2d_backward(dy, indices, y.shape), expected)
    # Any strides of dy, and channels last by name.
    for way in (dy[:, ::-1], np.asfortranarray(dy), np.repeat(dy, 2, 3)[..., ::2]):
        wanted = expected[:, ::-1] if way.base is dy else expected
        taps_of = indices[:, ::-1] if way.base is dy else indices
        np.testing.assert_array_equal(
            kernels.relu_max_pool2d_backward(way, taps_of, y.shape), wanted
        )
    last = (0, 2, 3, 1)
    named = kernels.conv2d_relu_max_pool2d(
        x.transpose(last), w.transpose(2, 3, 1, 0), b, layout="NHWC", return_indices=True, **how
    )
    np.testing.assert_array_equal(named[0], got.transpose(last))
    np.testing.assert_array_equal(named[1], indices.transpose(last))
    back = kernels.relu_max_pool2d_backward(
        dy.transpose(last), named[1], y.transpose(last).shape, layout="NHWC"
    )
    np.testing.assert_array_equal(back, expected.transpose(last))


def test_values(dtype, level, rng):
    x, w, b = drawn(rng, SHAPES[1], dtype)
    y = np.maximum(ref.conv2d(x, w, b, padding=1), 0)
    expected = y.reshape(2, 16, 4, 2, 4, 2).max((3, 5))
    got = kernels.conv2d_relu_max_pool2d(x, w, b, padding=1)
    ref.assert_close(got, expected, 10, kind="product", scale=1)


def test_nan_and_infinity(dtype, level, rng):
    x, w, b = drawn(rng, (2, 3, 12, 12, 20, (3, 3), {}), dtype)
    x[0, 1, 3, 4], x[1, 2, 7, 7], x[1, 0, 0, 0] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        _, pooled, taps = chain(x, w, b, {})
    got, indices = kernels.conv2d_relu_max_pool2d(x, w, b, return_indices=True)
    np.testing.assert_array_equal(got, pooled)
    np.testing.assert_array_equal(indices, taps)


@pytest.mark.parametrize("shape", [SHAPES[9], SHAPES[11], SHAPES[12], SHAPES[13]], ids=str)
def test_the_same_bits_for_any_number_of_threads(shape, rng):
    x, w, b = drawn(rng, shape, np.float32)
    how = shape[-1]
    ref.assert_same_bits(
        lambda: kernels.conv2d_relu_max_pool2d(x, w, b, return_indices=True, **how)
    )
    y, indices = kernels.conv2d_relu_max_pool2d(x, w, b, return_indices=True, **how)
    size = kernels.conv2d(x, w, b, **how).shape
    ref.assert_same_bits(lambda: kernels.relu_max_pool2d_backward(y, indices, size))


def test_out(rng):
    x, w, b = drawn(rng, SHAPES[1], np.float32)
    expected = kernels.conv2d_relu_max_pool2d(x, w, b, padding=1)
    for out in (np.empty(expected.shape, np.float32), np.empty_like(expected)):
        assert kernels.conv2d_relu_max_pool2d(x, w, b, padding=1, out=out) is out
        np.testing.assert_array_equal(out, expected)
    many = np.repeat(x, 16, 1)
    with pytest.raises(OutputError):
        kernels.conv2d_relu_max_pool2d(many[:, :1], w, b, padding=1, out=many[:, :, :4, :4])


def test_errors(rng):
    x, w, b = drawn(rng, SHAPES[1], np.float32)
    with pytest.raises(ShapeError, match="window of 2x2 pixels, got 1 by 6"):
        kernels.conv2d_relu_max_pool2d(x[:, :, :3], w, b)
    with pytest.raises(DTypeError):
        kernels.conv2d_relu_max_pool2d(x, w.astype(np.float64), b)
    y, indices = kernels.conv2d_relu_max_pool2d(x, w, b, return_indices=True)
    with pytest.raises(ShapeError, match="dy must have shape"):
        kernels.relu_max_pool2d_backward(y[:1], indices, (2, 16, 6, 6))
    with pytest.raises(DTypeError, match="indices"):
        kernels.relu_max_pool2d_backward(y, indices.astype(np.int64), (2, 16, 6, 6))
    with pytest.raises(ShapeError, match="x_shape"):
        kernels.relu_max_pool2d_backward(y, indices, (2, 16, 6))
    with pytest.raises(ShapeError, match="2x2"):
        kernels.relu_max_pool2d_backward(y, indices, (2, 16, 1, 6))


def test_no_fence_is_touched():
    run_fenced(
        """
from hotloop import kernels
rng = np.random.default_rng(0)
def filled(shape, at_end, dtype=np.float32):
    a = fenced(shape, dtype, at_end)
    a[...] = rng.standard_normal(shape)
    return a
for level in LEVELS:
    with force_isa(level):
        for at_end in (False, True):
            for n, h, w, c, o in ((1, 5, 7, 3, 5), (2, 6, 6, 17, 33), (1, 20, 9, 16, 65)):
                x, k = filled((n, h, w, c), at_end), filled((3, 3, c, o), at_end)
                b, y = filled((o,), at_end), fenced((n, h // 2, w // 2, o), np.float32, at_end)
                _, taps = kernels.conv2d_relu_max_pool2d(
                    x, k, b, padding=1, layout="NHWC", out=y, return_indices=True)
                kept_taps = fenced(taps.shape, np.uint8, at_end)
                kept_taps[...] = taps
                dx = fenced((n, h, w, o), np.float32, at_end)
                kernels.relu_max_pool2d_backward(y, kept_taps, dx.shape, layout="NHWC", out=dx)
                r, z = filled((n, h, w, o), at_end), fenced((n, h, w, o), np.float32, at_end)
                kernels.conv2d(x, k, b, padding=1, layout="NHWC", residual=r, out=z,
                               activation="relu")
print("no fence touched")
""",
        ("generic", "avx2", "avx512"),
    )
