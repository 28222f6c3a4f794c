"""Arithmetic and elementary functions: values, broadcasting, layouts, in place, messages."""

from __future__ import annotations

import math

import numpy as np
import pytest

import hotloop as hl
from hotloop import _core, kernels
from reference import (
    EDGE_SIZES,
    LAYOUTS,
    SPECIAL_VALUES,
    assert_close,
    assert_same,
    assert_same_bits,
    empty_with_layout,
    guarded,
    ulp_error,
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
    "sign": lambda x: np.where(np.isnan(x), 0, np.sign(x)).astype(x.dtype) + x.dtype.type(0),
    "square": np.square,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: x.dtype.type(1) / np.sqrt(x),
    "reciprocal": np.reciprocal,
}
FUNCTIONS = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sin": np.sin,
    "cos": np.cos,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
}
COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def test_every_function_has_a_reference():
    assert {*EXACT, *FUNCTIONS} == set(_core.unary_functions)
    assert {*BINARY, "pow"} == set(_core.binary_functions)
    assert set(COMPARISONS) == set(_core.comparisons)


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


# ------------------------------------------------------------------------------------------
# Accuracy. Every 1,021st float32 there is, against float64; float64 against long double.

SWEEP = np.arange(0, 2**32, 1021, dtype=np.uint64).astype(np.uint32).view(np.float32)
SWEPT = {name: function for name, function in FUNCTIONS.items() if name != "erf"}


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_bits_of_nan_do_not_depend_on_neighbours(name, dtype, level):
    function = getattr(kernels, name)
    alone = np.full(67, np.nan, dtype)
    beside = alone.copy()
    beside[::3] = 1e9
    bits = np.dtype(f"u{alone.itemsize}")
    nans = np.isnan(beside)
    expected = np.ascontiguousarray(function(alone)[nans]).view(bits)
    np.testing.assert_array_equal(np.ascontiguousarray(function(beside)[nans]).view(bits), expected)


@pytest.mark.parametrize("name", SWEPT)
def test_ulp_over_all_of_float32(name, level):
    actual = getattr(kernels, name)(SWEEP)
    error = ulp_error(actual, SWEPT[name](SWEEP.astype(np.float64)))
    bound = 0.51 if name in ("sin", "cos") else 2.0
    worst = int(np.argmax(error))
    assert error[worst] <= bound, f"{name}({SWEEP[worst]!r}): {error[worst]} ULP"


def _wide_error(actual, expected):
    """ULP of float64 against long double, where neither is denormal nor infinite."""
    fine = np.isfinite(actual) & (np.abs(actual) > 1e-300)
    assert_same(np.isnan(actual), np.isnan(expected))
    return np.abs((actual - expected)[fine] / np.spacing(np.abs(actual[fine]))).max()


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="long double is double here")
@pytest.mark.parametrize("name", SWEPT)
def test_ulp_of_float64(name, level, rng):
    x = np.concatenate([rng.uniform(-20, 20, 4000), np.exp(rng.uniform(-40, 700, 4000))])
    if name in ("sin", "cos"):
        x = np.concatenate([x, np.arange(1, 2000) * (np.pi / 2), 2.0**20 + np.arange(-50, 50.0)])
    error = _wide_error(getattr(kernels, name)(x), SWEPT[name](x.astype(np.longdouble)))
    assert error <= (1.0 if name in ("sin", "cos") else 4.0)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="long double is double here")
def test_ulp_of_pow(level, rng):
    for spread, powers in ((20, 30), (1e-3, 6e5), (1e-9, 6e11), (700, 1)):
        x = np.exp(rng.uniform(-spread, spread, 5000))
        y = rng.uniform(-1, 1, 5000) * powers
        expected = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
        assert _wide_error(kernels.pow(x, y), expected) <= 2.0
        x, y = x.astype(np.float32), y.astype(np.float32)
        expected = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
        assert ulp_error(kernels.pow(x, y), expected).max() <= 0.51


def test_special_cases_of_pow(level, dtype):
    edges = [0.0, 1, 2, 3, 0.5, np.inf, 1e-40, 3e38, 8388609.0, 16777215.0]
    edges = np.array([*edges, *(-x for x in edges), np.nan]).astype(dtype)
    x, y = (part.ravel() for part in np.meshgrid(edges, edges))
    expected = np.power(x.astype(np.float64), y.astype(np.float64)).astype(dtype)
    actual = kernels.pow(x, y)
    assert_same(np.isnan(actual), np.isnan(expected))
    fine = ~np.isnan(expected)
    assert_same(np.signbit(actual)[fine], np.signbit(expected)[fine])
    assert (ulp_error(actual, expected.astype(np.longdouble))[fine] <= 2.5).all()


# ------------------------------------------------------------------------------------------
# Comparisons and selection.


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(name, level, dtype, rng):
    function, reference = getattr(kernels, name), COMPARISONS[name]
    special = np.array(SPECIAL_VALUES, np.float64).astype(dtype)
    a, b = (part.ravel() for part in np.meshgrid(special, special))
    assert_same(function(a, b), reference(a, b))
    for size in EDGE_SIZES:
        a, b = rng.integers(0, 3, (2, size)).astype(dtype)
        assert_same(function(a, b), reference(a, b))
        assert_same(function(a, 1), reference(a, 1))
        assert_same(function(1.0, a), reference(1, a))
        out = np.empty(3 * size, bool)[::3]
        assert function(a[::-1], b, out=out) is out
        assert_same(np.ascontiguousarray(out), reference(a[::-1], b))
    a, b = rng.integers(0, 3, (4, 1, 19)).astype(dtype), rng.integers(0, 3, (5, 1)).astype(dtype)
    for layout in LAYOUTS:
        x = with_layout(a, layout)
        assert_same(np.ascontiguousarray(function(x, b)), reference(a, b), layout)
        assert_same(np.ascontiguousarray(function(b, x)), reference(b, a), layout)


def test_where(level, dtype, rng):
    for size in EDGE_SIZES:
        condition = rng.integers(0, 2, size).astype(bool)
        a, b = rng.normal(0, 1, (2, size)).astype(dtype)
        assert_same(kernels.where(condition, a, b), np.where(condition, a, b))
        assert_same(kernels.where(condition, a, 0), np.where(condition, a, dtype(0)))
        expected = np.where(condition[::-1], dtype(2), b[::-1])
        out, check = guarded(size, dtype)
        assert kernels.where(condition[::-1], 2.0, b[::-1], out=out) is out
        assert_same(out, expected)
        check()
        kernels.where(condition, a, b, out=a)
    condition = rng.integers(0, 2, (4, 1, 19)).astype(bool)
    a, b = rng.normal(0, 1, (5, 1)).astype(dtype), rng.normal(0, 1, (4, 5, 19)).astype(dtype)
    for layout in LAYOUTS:
        for mask in (condition, condition[:, :, ::-1], condition[0], condition[..., :1]):
            result = kernels.where(mask, a, with_layout(b, layout))
            assert_same(np.ascontiguousarray(result), np.where(mask, a, b), layout)
    with pytest.raises(hl.DTypeError, match=r"where: condition must be bool, got float"):
        kernels.where(b, a, b)
    with pytest.raises(hl.ShapeError, match=r"where: condition with a and b must have shapes"):
        kernels.where(condition, a, b[:3])


def test_clip(level, dtype, rng):
    for size in EDGE_SIZES:
        x = rng.normal(0, 2, size).astype(dtype)
        assert_same(kernels.clip(x, -1, 0.5), np.clip(x, dtype(-1), dtype(0.5)))
        low = rng.normal(0, 1, size).astype(dtype)
        assert_same(kernels.clip(x, low, np.inf), np.maximum(x, low))
        kernels.clip(x, -1, 1, out=x)
        assert (np.abs(x) <= 1).all()
    x = np.array([np.nan, 1, 5], dtype)
    assert_same(kernels.clip(x, 2, 1)[1:], np.array([1, 1], dtype))
    assert np.isnan(kernels.clip(x, 0, 1)[0])
    assert np.isnan(kernels.clip(x, np.nan, 1)).all()
    assert_same(kernels.clip(x, None, 2), np.array([np.nan, 1, 2], dtype))
    assert_same(kernels.clip(x, 2, None), np.array([np.nan, 2, 5], dtype))
    assert_same(kernels.clip(x, None, None), x)


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
    assert_same_bits(lambda: (kernels.pow(np.abs(a), b), kernels.sin(a), kernels.lt(a, b)))
    assert_same_bits(lambda: kernels.where(a < b, a, b))
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
    with pytest.raises(hl.DTypeError, match=r"add: b must have no mask, .*\.filled"):
        kernels.add(a, np.ma.array(a, mask=a == 0))
    with pytest.raises(hl.DTypeError, match=r"relu: x must have no mask"):
        kernels.relu(np.ma.array(a))
    shared = np.lib.stride_tricks.as_strided(np.zeros(3, np.float32), (2, 3), (0, 4))
    for call in (kernels.exp, kernels.relu, kernels.softmax):
        with pytest.raises(hl.OutputError, match=r"out must be writable, got .* repeats elements"):
            call(a, out=shared)
