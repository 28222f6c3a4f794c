"""Arithmetic and elementary functions: values, broadcasting, layouts, in place, messages."""

from __future__ import annotations

import math

import numpy as np
import pytest

import hotloop as hl
from hotloop import kernels
from reference import (
    EDGE_SIZES,
    LAYOUTS,
    SPECIAL_VALUES,
    assert_close,
    assert_same,
    assert_same_bits,
    empty_with_layout,
    guarded,
    with_layout,
)

BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
EXACT = {
    "neg": np.negative,
    "abs": np.abs,
    "square": np.square,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
}
FUNCTIONS = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
}


@pytest.fixture(autouse=True)
def _quiet():
    with np.errstate(all="ignore"):
        yield


def _nan_is_nan(actual, expected):
    """Bits agree, but for the sign and payload of NaN, which hardware chooses."""
    where = np.isnan(expected)
    assert_same(np.isnan(actual), where)
    assert_same(np.where(where, 0, actual), np.where(where, 0, expected))


@pytest.mark.parametrize("name", BINARY)
def test_binary_is_numpy_to_the_bit(name, level, dtype, rng):
    special = np.array(SPECIAL_VALUES, np.float64).astype(dtype)
    a, b = (part.ravel() for part in np.meshgrid(special, special))
    if name in ("maximum", "minimum"):  # which zero is the larger one is left open
        a, b = a + dtype(0), b + dtype(0)
    _nan_is_nan(getattr(kernels, name)(a, b), BINARY[name](a, b))
    for size in EDGE_SIZES:
        a, b = rng.normal(0, 1, (2, size)).astype(dtype)
        assert_same(getattr(kernels, name)(a, b), BINARY[name](a, b))


@pytest.mark.parametrize("name", EXACT)
def test_exact_functions(name, level, dtype, rng):
    for x in (np.array(SPECIAL_VALUES, np.float64), *(rng.normal(0, 1, n) for n in EDGE_SIZES)):
        x = x.astype(dtype)
        _nan_is_nan(getattr(kernels, name)(x), EXACT[name](x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, level, dtype, rng):
    for size in EDGE_SIZES:
        x = rng.uniform(0.01, 5, size).astype(dtype)
        expected = FUNCTIONS[name](x.astype(np.float64))
        assert_close(getattr(kernels, name)(x), expected, kind="function")


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [
        ((3, 1, 5), (4, 1)),
        ((7,), (2, 3, 7)),
        ((2, 3, 7), (2, 1, 1)),
        ((1, 1), (33, 65)),
        ((5, 1), (1, 17)),
        ((), (4, 5)),
        ((0, 3), (1, 3)),
        ((129, 3), (3,)),
        ((2, 1, 3, 1, 2), (1, 4, 1, 5, 1)),
    ],
)
@pytest.mark.parametrize("name", BINARY)
def test_broadcasting(name, shape_a, shape_b, dtype, rng):
    a, b = (np.asarray(rng.normal(0, 1, shape)).astype(dtype) for shape in (shape_a, shape_b))
    function, reference = getattr(kernels, name), BINARY[name]
    expected = np.asarray(reference(a, b))
    for x, y, want in ((a, b, expected), (b, a, np.asarray(reference(b, a)))):
        result = function(x, y)
        assert result.shape == want.shape
        assert_same(np.ascontiguousarray(result).reshape(want.shape), want)
    out = np.empty(expected.shape, dtype)
    assert function(a, b, out=out) is out
    assert_same(out, expected)


def test_scalars_take_the_arrays_dtype(level, dtype, rng):
    x = rng.normal(0, 1, 37).astype(dtype)
    for scalar in (2, 0.1, -3.5, np.float64(0.1), np.float32(0.5), np.int64(3)):
        same = dtype(scalar)
        assert_same(kernels.add(x, scalar), x + same)
        assert_same(kernels.sub(scalar, x), same - x)
        assert_same(kernels.div(x, scalar, out=np.empty_like(x)), x / same)


def test_layouts(level, dtype, rng):
    a, b = rng.normal(0, 1, (2, 4, 6, 19)).astype(dtype)
    expected = a * b
    for layout in LAYOUTS:
        for other in LAYOUTS:
            out = empty_with_layout(a.shape, dtype, other)
            kernels.mul(with_layout(a, layout), with_layout(b, other), out=out)
            assert_same(np.ascontiguousarray(out), expected, f"{layout}, {other}")
            result = kernels.mul(with_layout(a, layout), with_layout(b, other))
            assert_same(np.ascontiguousarray(result), expected, f"{layout}, {other}")


def test_fresh_results_keep_the_order_of_the_axes(rng):
    a = rng.normal(0, 1, (2, 4, 5, 3)).transpose(0, 3, 1, 2)
    assert kernels.add(a, 1.0).strides == a.strides
    assert kernels.add(a, a[:, :, :1, :1]).strides == a.strides
    assert kernels.add(np.ones((3, 1, 1)), a).strides == a.strides


def test_in_place_and_nothing_outside(level, dtype, rng):
    for size in EDGE_SIZES:
        a, check = guarded(size, dtype)
        a[...] = rng.normal(0, 1, size)
        b = rng.normal(0, 1, size).astype(dtype)
        expected = a + b
        assert kernels.add(a, b, out=a) is a
        assert_same(a, expected)
        check()
        expected = a * a
        kernels.mul(a, a, out=a)
        assert_same(a, expected)
        check()
    rows = rng.normal(0, 1, (6, 7)).astype(dtype)
    expected = rows[:3] + rows[3:]
    assert_same(kernels.add(rows[:3], rows[3:], out=rows[:3]), expected)


def test_interleaved_views_do_not_overlap(dtype, rng):
    both = rng.normal(0, 1, 40).astype(dtype)
    expected = both[::2] * 2
    kernels.mul(both[::2], 2, out=both[1::2])
    assert_same(both[1::2].copy(), expected)


def test_same_bits_for_any_number_of_threads(dtype, rng):
    a = rng.normal(0, 1, (257, 1030)).astype(dtype)
    b = rng.normal(0, 1, (1030,)).astype(dtype)
    assert_same_bits(lambda: kernels.add(a, b))
    assert_same_bits(lambda: kernels.exp(a.T))
    assert_same(kernels.add(a, b), a + b)


def test_messages():
    a = np.zeros((2, 3), np.float32)
    with pytest.raises(
        hl.ShapeError,
        match=r"add: a and b must have shapes that broadcast, got \(2, 3\) and \(2,\)",
    ):
        kernels.add(a, np.zeros(2, np.float32))
    with pytest.raises(hl.DTypeError, match=r"mul: a and b must have the same dtype, got float32"):
        kernels.mul(a, np.zeros((2, 3)))
    with pytest.raises(hl.DTypeError, match=r"div: a must be a numpy.ndarray, got float"):
        kernels.div(1.0, 2.0)
    with pytest.raises(hl.DTypeError, match=r"add: b must be a numpy.ndarray, got str"):
        kernels.add(a, "1")
    with pytest.raises(hl.DTypeError, match=r"add: b must be a numpy.ndarray, got bool"):
        kernels.add(a, True)
    with pytest.raises(TypeError):
        kernels.add(a, 1j)
    with pytest.raises(hl.ShapeError, match=r"add: out must have shape \(2, 3\), got \(3,\)"):
        kernels.add(a, a[0], out=a[0].copy())
    with pytest.raises(hl.OutputError, match=r"add: out must not overlap b"):
        kernels.add(a, a[0], out=a)
    with pytest.raises(hl.DTypeError, match=r"exp: x must be float32 or float64"):
        kernels.exp(np.zeros(3, np.float16))
