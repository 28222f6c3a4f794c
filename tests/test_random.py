"""Uniform and normal numbers: the definition, the distribution, layouts, threads, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

import hotloop as hl
from hotloop import kernels
from hotloop.kernels import normal, uniform
from reference import LAYOUTS, assert_same, assert_same_bits, empty_with_layout, ulp_error
from test_philox import philox_words

SIZES = (0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 1000)
SEED, STREAM = 0x0123456789ABCDEF, 0xFEDCBA9876543210


def fractions(words):
    """53 bits of two words each."""
    high, low = words[0].astype(np.float64), words[1].astype(np.float64)
    return (np.floor(high / 32) * 2**26 + np.floor(low / 64)) * 2.0**-53


def chunks(words):
    """(4, 8 n) words -> (n, 4, 8): eight blocks side by side."""
    return words.reshape(4, -1, 8).transpose(1, 0, 2)


def reference_uniform(size, dtype):
    if dtype is np.float32:
        words = chunks(philox_words(SEED, STREAM, 8 * (size // 32 + 1)))
        return (np.floor(words.astype(np.float64) / 256) * 2.0**-24).reshape(-1)[:size]
    words = chunks(philox_words(SEED, STREAM, 8 * (size // 16 + 1)))
    pairs = np.stack([fractions(words[:, 0:2].transpose(1, 0, 2)),
                      fractions(words[:, 2:4].transpose(1, 0, 2))], axis=1)  # fmt: skip
    return pairs.reshape(-1)[:size]


def reference_normal(size, dtype):
    if dtype is np.float32:
        words = chunks(philox_words(SEED, STREAM, 8 * (size // 32 + 1))).astype(np.float64)
        u1 = ((words[:, 0::2] + 0.5) * 2.0**-32).astype(np.float32).astype(np.float64)
        u2 = np.floor(words[:, 1::2] / 256) * 2.0**-24
    else:
        words = chunks(philox_words(SEED, STREAM, 8 * (size // 16 + 1)))
        u1 = fractions(words[:, 0:2].transpose(1, 0, 2))[:, None] + 2.0**-54
        u2 = fractions(words[:, 2:4].transpose(1, 0, 2))[:, None]
    radius, angle = np.sqrt(-2 * np.log(u1)), 2 * np.pi * u2
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return both.reshape(-1)[:size]


def test_uniform_is_its_definition(level, dtype):
    for size in SIZES:
        got = uniform(size, dtype=dtype, key=(SEED, STREAM))
        assert_same(got, reference_uniform(size, dtype).astype(dtype), f"{size} numbers")


def test_normal_is_its_definition(level, dtype):
    for size in SIZES:
        got = normal(size, dtype=dtype, key=(SEED, STREAM))
        want = reference_normal(size, dtype)
        assert got.dtype == dtype
        # near a zero of sine or cosine the error is absolute
        assert np.max(np.abs(got - want), initial=0) <= 16 * np.finfo(dtype).eps


def test_range_and_moments(dtype):
    n = 200_000
    u = uniform(n, low=-2, high=6, dtype=dtype, key=(1, 2)).astype(np.float64)
    assert u.min() >= -2
    assert u.max() <= 6
    assert abs(u.mean() - 2) < 0.05
    assert abs(u.var() - 64 / 12) < 0.1
    z = normal(n, mean=3, std=2, dtype=dtype, key=(1, 3)).astype(np.float64)
    z = (z - 3) / 2
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert abs(np.mean(z**power) - moment) < 0.1
    for x in (0.5, 1.0, 2.0, 3.0):  # the tails: share beyond x
        share = math.erfc(x / math.sqrt(2)) / 2
        for side in (z > x, z < -x):
            assert abs(np.mean(side) - share) < 5 * math.sqrt(share / n)
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(u[:-8], u[8:])[0, 1]) < 0.02


def test_extreme_words_stay_finite():
    z = normal(1_000_000, key=(5, 5))
    assert np.isfinite(z).all()
    assert np.isfinite(normal(100_000, dtype=np.float64, key=(5, 5))).all()


def test_same_bits_for_any_threads(dtype):
    assert_same_bits(lambda: uniform(100_001, dtype=dtype, key=(3, 4)))
    assert_same_bits(lambda: normal((7, 20_011), dtype=dtype, key=(3, 4)))


def test_longer_begins_with_shorter(dtype):
    for call in (uniform, normal):
        long = call(5000, dtype=dtype, key=(9, 9))
        assert_same(call(77, dtype=dtype, key=(9, 9)), long[:77])
        assert_same(call((50, 100), dtype=dtype, key=(9, 9)), long.reshape(50, 100))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_out(dtype, layout):
    for call in (uniform, normal):
        want = call((5, 33), dtype=dtype, key=(1, 1))
        out = empty_with_layout((5, 33), dtype, layout)
        assert call((5, 33), key=(1, 1), out=out) is out
        assert_same(np.ascontiguousarray(out), want)


def test_shapes_and_defaults():
    assert uniform((), key=(0, 0)).shape == ()
    assert uniform([2, 3]).dtype == np.float32
    assert normal((0, 3)).shape == (0, 3)
    assert normal(4, dtype="float64").dtype == np.float64
    assert (normal(100, std=0, mean=2.5) == 2.5).all()
    assert ulp_error(uniform(5, low=3, high=3), np.full(5, 3.0)).max() == 0


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: uniform((2, -1)), hl.ShapeError, "uniform: shape must not hold negative sizes"),
        (lambda: uniform("abc"), hl.DTypeError, "uniform: shape must"),
        (lambda: uniform((2**40, 2**40)), hl.ShapeError, "uniform: the array must fit"),
        (lambda: uniform(3, dtype=np.int32), hl.DTypeError, "uniform: dtype must be float32 or"),
        (lambda: uniform(3, low=1, high=0), ValueError, "uniform: high must not be below low"),
        (lambda: uniform(3, high=float("inf")), ValueError, "must be finite"),
        (lambda: normal(3, std=-1), ValueError, "normal: std must be at least 0"),
        (lambda: normal(3, mean=float("nan")), ValueError, "must be finite"),
        (lambda: normal(3, key=5), hl.DTypeError, r"normal: key must be a tuple \(seed, stream\)"),
        (lambda: normal(3, key=(1, -1)), hl.DTypeError, "normal: key must be a tuple"),
        (lambda: normal(3, out=np.empty(4, np.float32)), hl.ShapeError, "out must have shape"),
        (
            lambda: normal(3, dtype=np.float64, out=np.empty(3, np.float32)),
            hl.DTypeError,
            "normal: out must be float64",
        ),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_bernoulli(level, dtype):
    for size in (0, 1, 31, 32, 33, 100_003):
        for p in (0.0, 0.3, 1.0):
            x = kernels.bernoulli(size, p, dtype=dtype, key=(3, 5))
            unit = kernels.uniform(size, dtype=dtype, key=(3, 5))
            assert_same(x, (unit < dtype(p)).astype(dtype))
    assert abs(x.mean() - 1) == 0
    assert abs(kernels.bernoulli(100_000, 0.3, key=(1, 2)).mean() - 0.3) < 0.01
    out = np.empty((4, 6), dtype)[:, ::2]
    assert kernels.bernoulli((4, 3), 0.5, out=out) is out
    with pytest.raises(ValueError, match=r"bernoulli: p must be in \[0, 1\], got 1.5"):
        kernels.bernoulli(3, 1.5)


def test_bernoulli_of_tensors():
    hl.seed(1)
    p = np.tile(np.array([0.0, 0.25, 1.0]), (20_000, 1))
    x = hl.bernoulli(hl.tensor(p))
    assert x.dtype == np.float64
    np.testing.assert_allclose(x.numpy().mean(0), [0, 0.25, 1], atol=0.02)
    y = hl.zeros(10_000).bernoulli_(0.5)
    assert abs(y.numpy().mean() - 0.5) < 0.05
    assert hl.bernoulli(y, 1.0).numpy().all()
    with pytest.raises(ValueError, match="probabilities"):
        hl.bernoulli(hl.tensor([2.0]))


def test_permutation():
    for n in (0, 1, 2, 3, 1000):
        order = kernels.permutation(n, key=(7, 1))
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
        np.testing.assert_array_equal(order, kernels.permutation(n, key=(7, 1)))
    # Every order of three is about equally likely: 6000 draws, 1000 each, deviation 29.
    draws = [tuple(kernels.permutation(3, key=(0, i)).tolist()) for i in range(6000)]
    counts = [draws.count(order) for order in sorted(set(draws))]
    assert len(counts) == 6
    assert max(counts) < 1200
    assert min(counts) > 800
    places = np.mean([kernels.permutation(100, key=(1, i)) for i in range(2000)], axis=0)
    assert np.abs(places - 49.5).max() < 5
    with pytest.raises(hl.ShapeError, match="permutation: n must not be negative, got -1"):
        kernels.permutation(-1)
    wanted = kernels.permutation(50, key=(7, 1))
    for out in (np.zeros(50, "i8"), np.zeros(100, "i8")[::2], np.zeros(50, "i8")[::-1]):
        assert kernels.permutation(50, key=(7, 1), out=out) is out
        np.testing.assert_array_equal(out, wanted)
    for wrong, error in ((np.zeros(50), hl.DTypeError), (np.zeros(51, "i8"), hl.ShapeError),
                         ([0] * 50, hl.DTypeError)):  # fmt: skip
        with pytest.raises(error, match="permutation: out must"):
            kernels.permutation(50, out=wrong)
    out = np.zeros(50, "i8")
    out.flags.writeable = False
    repeats = np.lib.stride_tricks.as_strided(np.zeros(1, "i8"), (50,), (0,))
    for wrong in (out, repeats):
        with pytest.raises(hl.OutputError, match="permutation: out must be writable"):
            kernels.permutation(50, out=wrong)
