"""Dropout: the mask by its definition, the gradient, layouts, threads, bad input."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop.kernels import dropout, dropout_backward, random_key
from reference import (
    LAYOUTS,
    SPECIAL_VALUES,
    assert_gradient,
    assert_same,
    assert_same_bits,
    empty_with_layout,
    guarded,
    with_layout,
)
from test_philox import philox_words

SIZES = (0, 1, 7, 8, 9, 31, 32, 33, 65, 1000)
KEY = (0xDEADBEEF12345678, 42)


def reference_mask(size, p, key=KEY):
    words = philox_words(*key, 8 * (size // 32 + 1))
    return words.reshape(4, -1, 8).transpose(1, 0, 2).reshape(-1)[:size] >= p * 2.0**32


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_values(level, dtype, rng, p):
    for size in SIZES:
        x = rng.normal(size=size).astype(dtype)
        out, check = guarded(size, dtype)
        assert dropout(x, p, key=KEY, out=out) is out
        check()
        scale = dtype(1 / (1 - p)) if p < 1 else dtype(0)
        want = np.where(reference_mask(size, p), x * scale, dtype(0))
        assert_same(out, want.astype(dtype), f"{size} elements")
        assert_same(dropout_backward(x, p, key=KEY), out)


def test_share_of_dropped():
    y = dropout(np.ones(100_000, np.float32), 0.3, key=(1, 1))
    assert abs(np.mean(y == 0) - 0.3) < 0.01
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}


def test_keys():
    x = np.ones(200, np.float32)
    hl.seed(3)
    a, b = dropout(x), dropout(x)
    hl.seed(3)
    c = dropout(x)
    assert not np.array_equal(a, b)
    assert np.array_equal(a, c)
    key = random_key()
    assert np.array_equal(dropout(x, key=key), dropout(x, key=key))
    hl.seed(0)


def test_special_values(level, dtype):
    x = np.array(SPECIAL_VALUES * 20).astype(dtype)
    mask = reference_mask(x.size, 0.5)
    y = dropout(x, key=KEY)
    with np.errstate(over="ignore"):
        assert_same(y, np.where(mask, x * dtype(2), dtype(0)))
    assert (dropout(x, 1.0) == 0).all()
    assert_same(dropout(x, 0.0), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(level, dtype, rng, layout):
    x = rng.normal(size=(3, 5, 17)).astype(dtype)
    want = dropout(x, 0.4, key=KEY)
    assert_same(dropout(with_layout(x, layout), 0.4, key=KEY), want)
    out = empty_with_layout(x.shape, dtype, layout)
    dropout(x, 0.4, key=KEY, out=out)
    assert_same(np.ascontiguousarray(out), want)
    inside = with_layout(x, layout)
    assert dropout(inside, 0.4, key=KEY, out=inside) is inside
    assert_same(np.ascontiguousarray(inside), want)


def test_the_result_lies_in_memory_as_its_input(dtype, rng):
    for x in (
        rng.normal(size=(2, 5, 6, 3)).astype(dtype).transpose(0, 3, 1, 2),
        np.asfortranarray(rng.normal(size=(7, 5)).astype(dtype)),
    ):
        y = dropout(x, 0.4, key=KEY)
        assert y.strides == x.strides
        assert_same(y, dropout(np.ascontiguousarray(x), 0.4, key=KEY))
        assert dropout_backward(x, 0.4, key=KEY).strides == x.strides


def test_same_bits_for_any_threads(dtype, rng):
    x = rng.normal(size=(11, 10_007)).astype(dtype)
    assert_same_bits(lambda: dropout(x, 0.2, key=KEY))
    assert_same_bits(lambda: dropout_backward(x, 0.2, key=KEY))


def test_gradient(rng):
    x, dy = rng.normal(size=(5, 9)), rng.normal(size=(5, 9))
    dx = dropout_backward(dy, 0.4, key=KEY)
    assert_gradient(dx, lambda: dropout(x, 0.4, key=KEY), x, dy)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: dropout(x, 1.5), ValueError, "dropout: p must be from 0 to 1, got 1.5"),
        (lambda x: dropout(x, float("nan")), ValueError, "dropout: p must be from 0 to 1"),
        (lambda x: dropout(x.astype(int)), hl.DTypeError, "dropout: x must be float32 or float64"),
        (lambda x: dropout(x, key=(1,)), hl.DTypeError, "dropout: key must be a tuple"),
        (lambda x: dropout(x, out=np.empty(3, x.dtype)), hl.ShapeError, "out must have shape"),
        (lambda x: dropout(x[1:], out=x[:-1]), hl.OutputError, "out must not overlap x"),
        (
            lambda x: dropout_backward(x, key=None),
            hl.DTypeError,
            "dropout_backward: key must be the one that the forward call was given",
        ),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call(np.ones(10, np.float32))
