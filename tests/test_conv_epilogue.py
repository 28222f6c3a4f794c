"""What convolutions add and apply at the end, and weights that were packed before."""

from __future__ import annotations

import numpy as np
import pytest

import reference as ref
from hotloop import DTypeError, OutputError, ShapeError, kernels

# n, c, h, w, o, kernel, settings: panels, several runs, groups, both depthwise kernels, strides.
SHAPES = [
    (1, 1, 1, 1, 1, (1, 1), {}),
    (2, 3, 9, 7, 5, (3, 2), {"padding": 1}),
    (2, 20, 5, 5, 70, (1, 1), {"stride": 2}),
    (3, 20, 7, 5, 70, (1, 1), {}),  # a plain product
    (1, 64, 4, 5, 33, (3, 3), {"padding": 1}),
    (2, 6, 7, 7, 9, (3, 3), {"groups": 3, "padding": 1}),
    (2, 21, 9, 8, 21, (3, 3), {"groups": 21, "padding": 1}),  # rows in place
    (2, 21, 9, 8, 21, (2, 2), {"groups": 21, "stride": 2}),  # tables
    (2, 1024, 3, 4, 1024, (3, 3), {"groups": 1024, "padding": 1}),  # rows copied in strips
    (40, 2, 5, 5, 4, (2, 2), {}),
    (1, 8, 41, 60, 8, (3, 3), {"padding": 1}),
    (3, 250, 5, 5, 256, (3, 3), {"padding": 1}),  # panel by panel
]
# Results of few pixels read w as it lies, which adds in another order than a pack.
FEW = [
    (1, 40, 7, 7, 210, (3, 3), {"padding": 1}),
    (2, 75, 5, 5, 200, (2, 3), {"padding": (1, 2), "dilation": (2, 2)}),
]


def drawn(rng, shape, dtype):
    n, c, h, w, o, kernel, how = shape
    x = rng.uniform(-1, 1, (n, h, w, c)).astype(dtype).transpose(0, 3, 1, 2)
    weight = rng.uniform(-1, 1, (o, c // how.get("groups", 1), *kernel)).astype(dtype)
    return x, weight, rng.uniform(-1, 1, o).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES + FEW, ids=str)
def test_residual(shape, dtype, level, rng):
    x, w, b = drawn(rng, shape, dtype)
    how = shape[-1]

    def same(got, expected):
        if w.shape[2:] == (1, 1):  # a plain product may add bias and residual in another order
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(got, expected)

    plain = kernels.conv2d(x, w, b, **how)
    residual = rng.uniform(-1, 1, plain.shape).astype(dtype)
    expected = plain + residual
    last = np.ascontiguousarray(residual.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.repeat(np.repeat(last, 2, 3), 3, 2)[:, :, ::3, ::2]
    for way in (residual, last, wide, residual[:, ::-1].copy()[:, ::-1], last[::-1].copy()[::-1]):
        got = kernels.conv2d(x, w, b, residual=way, **how)
        same(got, expected)
    same(
        kernels.conv2d(x, w, b, residual=residual, activation="relu", **how),
        kernels.relu(expected),
    )
    got = kernels.conv2d(x, w, b, residual=residual, activation="gelu", **how)
    np.testing.assert_allclose(got, kernels.gelu(expected), rtol=1e-5, atol=1e-5)
    got = kernels.conv2d(x, w, residual=np.zeros_like(residual), **how)
    same(got, kernels.conv2d(x, w, **how))


def test_residual_of_signals_and_volumes(rng):
    x, w = rng.uniform(-1, 1, (2, 3, 9)), rng.uniform(-1, 1, (4, 3, 3))
    plain = kernels.conv1d(x, w)
    np.testing.assert_array_equal(kernels.conv1d(x, w, residual=plain.copy()), plain + plain)
    x, w = rng.uniform(-1, 1, (2, 3, 5, 4, 6)), rng.uniform(-1, 1, (4, 3, 3, 2, 2))
    plain = kernels.conv3d(x, w, padding=1)
    more = rng.uniform(-1, 1, plain.shape)
    np.testing.assert_array_equal(kernels.conv3d(x, w, padding=1, residual=more), plain + more)


def test_residual_errors(rng):
    x, w, b = drawn(rng, SHAPES[1], np.float32)
    y = kernels.conv2d(x, w, b)
    with pytest.raises(ShapeError, match="residual must have shape"):
        kernels.conv2d(x, w, b, residual=y[:1])
    with pytest.raises(DTypeError, match="residual"):
        kernels.conv2d(x, w, b, residual=y.astype(np.float64))
    with pytest.raises(OutputError, match="residual"):
        kernels.conv2d(x, w, b, residual=y, out=y)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packed_weights_give_the_same_bits(shape, dtype, level, rng):
    x, w, b = drawn(rng, shape, dtype)
    how = shape[-1]
    groups = how.get("groups", 1)
    pack = kernels.conv_pack(w, groups=groups)
    assert pack.dtype == dtype
    assert pack.groups == groups
    assert pack.nbytes >= w.nbytes
    expected = kernels.conv2d(x, w, b, **how)
    if w.shape[2:] == (1, 1):  # without a pack a plain product
        np.testing.assert_allclose(kernels.conv2d(x, pack, b, **how), expected, atol=1e-5)
        return
    np.testing.assert_array_equal(kernels.conv2d(x, pack, b, **how), expected)
    named = kernels.conv_pack(np.asfortranarray(w.transpose(2, 3, 1, 0)), groups=groups,
                              layout="NHWC")  # fmt: skip
    np.testing.assert_array_equal(kernels.conv2d(x, named, b, **how), expected)
    last = x.transpose(0, 2, 3, 1)
    got = kernels.conv2d(last, pack, b, layout="NHWC", **how)
    np.testing.assert_array_equal(got, expected.transpose(0, 2, 3, 1))
    if expected.shape[2] > 1 and groups != x.shape[1]:
        np.testing.assert_array_equal(
            kernels.conv2d_relu_max_pool2d(x, pack, b, **how),
            kernels.conv2d_relu_max_pool2d(x, w, b, **how),
        )


@pytest.mark.parametrize("shape", FEW, ids=str)
def test_few_pixels(shape, dtype, level, rng):
    """Other orders of memory, pools, threads: the same bits; packs: the same to rounding."""
    x, w, b = drawn(rng, shape, dtype)
    how = shape[-1]
    expected = kernels.conv2d(x, w, b, **how)
    np.testing.assert_array_equal(kernels.conv2d(x.copy("C"), w, b, **how), expected)
    np.testing.assert_array_equal(
        kernels.conv2d(x[..., ::-1].copy()[..., ::-1], w, b, **how), expected
    )
    y, taps = kernels.conv2d_relu_max_pool2d(x, w, b, return_indices=True, **how)
    pooled, places = kernels.max_pool2d(kernels.relu(expected), 2, return_indices=True)
    np.testing.assert_array_equal(y, pooled)
    np.testing.assert_array_equal(taps, np.where(pooled > 0, places, 4))
    pack = kernels.conv_pack(w)
    np.testing.assert_allclose(kernels.conv2d(x, pack, b, **how), expected, rtol=1e-4, atol=1e-4)
    ref.assert_same_bits(lambda: kernels.conv2d(x, w, b, activation="tanh", **how))


def test_packs_of_signals_and_volumes(rng):
    x, w = rng.uniform(-1, 1, (2, 3, 9)), rng.uniform(-1, 1, (4, 3, 3))
    np.testing.assert_array_equal(kernels.conv1d(x, kernels.conv_pack(w)), kernels.conv1d(x, w))
    x, w = rng.uniform(-1, 1, (2, 3, 5, 4, 6)), rng.uniform(-1, 1, (4, 3, 3, 2, 2))
    np.testing.assert_array_equal(kernels.conv3d(x, kernels.conv_pack(w)), kernels.conv3d(x, w))


def test_pack_errors(rng):
    x, w, b = drawn(rng, SHAPES[1], np.float32)
    with pytest.raises(ShapeError, match="3 to 5 axes"):
        kernels.conv_pack(w[0, 0])
    with pytest.raises(ShapeError, match=r"groups must divide .* got 2 groups for 5"):
        kernels.conv_pack(w, groups=2)
    with pytest.raises(ShapeError, match="must not be empty"):
        kernels.conv_pack(w[:0])
    with pytest.raises(ValueError, match="layout"):
        kernels.conv_pack(w, layout="NCL")
    pack = kernels.conv_pack(w)
    with pytest.raises(DTypeError):
        kernels.conv2d(x.astype(np.float64), pack, b.astype(np.float64))
    with pytest.raises(ShapeError, match="groups=1 and groups=3"):
        kernels.conv2d(x, pack, b, groups=3)
    with pytest.raises(ShapeError, match="conv2d"):
        kernels.conv1d(x[0], pack, b)
    with pytest.raises(ShapeError, match="input channels"):
        kernels.conv2d(x[:, :2], pack, b)
    each = kernels.conv_pack(rng.uniform(-1, 1, (4, 1, 3, 3)), groups=4)
    with pytest.raises(ShapeError, match="pass the array"):
        kernels.conv2d_relu_max_pool2d(rng.uniform(-1, 1, (1, 4, 6, 6)), each, groups=4)


def test_the_same_bits_for_any_number_of_threads(rng):
    x, w, b = drawn(rng, SHAPES[-1], np.float32)
    residual = kernels.conv2d(x, w, b, padding=1)
    ref.assert_same_bits(
        lambda: kernels.conv2d(x, w, b, padding=1, residual=residual, activation="tanh")
    )
    ref.assert_same_bits(lambda: kernels.conv2d(x, kernels.conv_pack(w), b, padding=1))
