"""Reductions over any axes; places and running sums along one."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

import hotloop as hl
from hotloop import kernels
from reference import (
    EDGE_SIZES,
    LAYOUTS,
    assert_close,
    assert_same,
    assert_same_bits,
    empty_with_layout,
    guarded,
    with_layout,
)


def logsumexp(x, axis=None, keepdims=False):
    most = np.max(x, axis=axis, keepdims=True)
    shifted = np.log(np.sum(np.exp(x - most), axis=axis, keepdims=True)) + most
    return shifted if keepdims else np.squeeze(shifted, axis)


OPS = {
    "sum": (kernels.sum, np.sum),
    "mean": (kernels.mean, np.mean),
    "max": (kernels.max, np.max),
    "min": (kernels.min, np.min),
    "prod": (kernels.prod, np.prod),
    "var": (kernels.var, lambda x, **how: np.var(x, ddof=1, **how)),
    "std": (kernels.std, lambda x, **how: np.std(x, ddof=1, **how)),
    "norm": (kernels.norm, lambda x, **how: np.sqrt(np.sum(x * x, **how))),
    "logsumexp": (kernels.logsumexp, logsumexp),
}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # the variance of one element is NaN
        yield


def check(name, x, axis, keepdims=False, out=None):
    ours, numpys = OPS[name]
    got = ours(x, axis, keepdims=keepdims, out=out)
    expected = numpys(x.astype(np.float64), axis=axis, keepdims=keepdims)
    if name in ("max", "min"):
        assert_same(got, np.asarray(expected, dtype=x.dtype))
        return
    terms = x.size // max(np.size(expected), 1)
    if name in ("prod", "var", "std", "norm", "logsumexp"):
        if name == "prod":  # every factor rounds once
            size = np.abs(expected)
            with np.errstate(over="ignore"):
                if np.max(size, initial=0) > np.finfo(x.dtype).max or terms > 1000:
                    return
            size, depth = np.maximum(size, 1e-30), terms  # denormals lose digits on the way
        else:
            size, depth = np.maximum(1.0, np.nan_to_num(np.abs(expected))), 70
        assert_close(got, np.asarray(expected), depth, kind="product", scale=size)
        if out is not None:
            assert got is out
        return
    scale = np.sum(np.abs(x.astype(np.float64)), axis=axis, keepdims=keepdims)
    scale = scale / terms if name == "mean" else scale
    # Blocks of at most 32 additions, lanes and slots, then pairwise: far below a chain of terms.
    assert_close(got, expected, min(terms, 40 + 20) + 1, scale=scale)
    if out is not None:
        assert got is out


@pytest.mark.parametrize("name", OPS)
def test_sizes_at_the_edges(name, level, dtype, rng):
    for size in EDGE_SIZES[1:]:
        row = rng.standard_normal(size).astype(dtype)
        check(name, row, None)
        check(name, rng.standard_normal((3, size)).astype(dtype), 1)
        check(name, rng.standard_normal((3, size)).astype(dtype), 0)
        check(name, rng.standard_normal((size, 37)).astype(dtype), 0)
        check(name, rng.standard_normal((size, 3)).astype(dtype), 0)


@pytest.mark.parametrize("name", OPS)
def test_every_choice_of_axes(name, level, dtype, rng):
    x = rng.standard_normal((3, 4, 5, 17)).astype(dtype)
    for count in range(5):
        for axes in itertools.combinations(range(4), count):
            check(name, x, axes, keepdims=count % 2 == 0)
            check(name, x.transpose(0, 2, 3, 1), axes)
    check(name, x, -1, keepdims=True)
    check(name, x, None, keepdims=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPS)
def test_layouts_of_input_and_output(name, layout, level, dtype, rng):
    x = rng.standard_normal((6, 19, 33)).astype(dtype)
    for axis in (0, 1, 2, (0, 2), (1, 2), None):
        shape = np.sum(x, axis=axis).shape
        check(name, with_layout(x, layout), axis, out=empty_with_layout(shape, dtype, layout))
        check(name, with_layout(x, layout), axis)
    check(name, np.broadcast_to(x[:, :1], x.shape), (1,))


@pytest.mark.parametrize("name", OPS)
def test_long_reductions_are_cut_into_chunks(name, level, dtype, rng):
    check(name, rng.standard_normal(300_001).astype(dtype), None)
    check(name, rng.standard_normal((40_001, 5)).astype(dtype), 0)
    check(name, rng.standard_normal((3001, 133)).astype(dtype), 0)
    check(name, rng.standard_normal((5, 70_001)).astype(dtype), 1)
    check(name, rng.standard_normal((700, 541)).astype(dtype), 0)  # rows pages apart
    check(name, rng.standard_normal((2, 517, 600)).astype(dtype)[:, ::-1], 1)
    check(name, rng.standard_normal((2, 3, 200, 301)).astype(dtype), (0, 2, 3))
    check(name, rng.standard_normal((2, 3, 90, 1200)).astype(dtype)[..., ::3], (0, 2, 3))


@pytest.mark.parametrize("name", OPS)
def test_long_rows_reduced_down_the_columns(name, level, dtype, rng):
    """Blocks of 128 rows by four, strips of 8 KB of columns, and what is left over of each."""
    for rows, columns in ((127, 700), (128, 1025), (131, 2047), (386, 2050), (1023, 257)):
        check(name, rng.standard_normal((rows, columns)).astype(dtype), 0)
    x = rng.standard_normal((257, 2, 1031)).astype(dtype)
    check(name, x, 0)
    check(name, x[:, :, :700], 0)
    check(name, x[::-1, 0], 0, out=np.empty(2062, dtype)[::2])


def test_not_a_number_stays_in_its_column(level, dtype, rng):
    x = rng.standard_normal((400, 600)).astype(dtype)
    x[0, 3] = x[399, 5] = x[130, 7] = np.nan
    x[0, 11] = x[399, 13] = x[130, 17] = np.inf
    x[0, 19] = x[200, 19] = np.inf
    for name in ("sum", "max", "mean"):
        with np.errstate(invalid="ignore"):
            want = getattr(np, name)(x, 0)
        got = getattr(kernels, name)(x, 0)
        assert (np.isnan(got) == np.isnan(want)).all()
        assert (np.isinf(got) == np.isinf(want)).all()
    got = kernels.var(x, 0)
    assert np.isnan(got[[3, 5, 7, 11, 13, 17, 19]]).all()
    assert np.isnan(got).sum() == 7


@pytest.mark.parametrize("name", OPS)
def test_same_bits_for_any_number_of_threads(name, rng):
    ours = OPS[name][0]
    for shape, axis in (((1_000_003,), None), ((70_001, 9), 0), ((700, 1300), 1), ((900, 1100), 0)):
        x = rng.standard_normal(shape).astype(np.float32)
        assert_same_bits(lambda x=x, axis=axis: ours(x, axis))


def test_float32_sums_stay_accurate(level):
    # Equal terms round the same way in every block of 32: about 8 eps. A chain is off by 1 %.
    for x in (np.full(4_000_000, 0.1, np.float32), np.full((1_000_000, 3), 0.1, np.float32)):
        exact = float(np.float32(0.1)) * len(x)
        assert np.all(np.abs(kernels.sum(x, 0) - exact) <= 1e-6 * exact)


def test_nan_and_infinity(level, dtype):
    for size in (1, 5, 16, 64, 100, 1000):
        for at in {0, size // 2, size - 1}:
            x = np.arange(size, dtype=dtype)
            x[at] = np.nan
            both = np.stack([x, np.arange(size, dtype=dtype)])
            for name, (ours, _) in OPS.items():
                if name in ("var", "std") and size == 1:
                    continue
                assert np.isnan(ours(x)), name
                if name == "prod":  # 0 times infinity
                    continue
                assert np.isnan(ours(both, 1)).tolist() == [True, False], name
                assert np.isnan(ours(both.T, 0)).tolist() == [True, False], name
    x = np.array([[np.inf, 1], [-np.inf, -np.inf]], dtype)
    assert_same(kernels.max(x, 1), np.array([np.inf, -np.inf], dtype))
    assert_same(kernels.min(x, 1), np.array([1, -np.inf], dtype))
    assert_same(kernels.sum(x, 1), np.array([np.inf, -np.inf], dtype))
    assert_same(kernels.max(np.full((7, 3), -np.inf, dtype), 0), np.full(3, -np.inf, dtype))


def test_nothing_to_reduce(level, dtype):
    empty = np.empty((3, 0, 2), dtype)
    assert_same(kernels.sum(empty, 1), np.zeros((3, 2), dtype))
    assert_same(kernels.sum(empty), np.zeros((), dtype))
    assert np.isnan(kernels.mean(empty, 1)).all()
    assert kernels.max(empty, 0).shape == (0, 2)
    assert kernels.sum(empty, (0, 2), keepdims=True).shape == (1, 0, 1)
    for op in (kernels.max, kernels.min):
        with pytest.raises(hl.ShapeError, match=r"x must have an element .* shape \(3, 0, 2\)"):
            op(empty, 1)
        with pytest.raises(hl.ShapeError):
            op(empty)


def test_zero_dimensional_and_plain_copies(level, dtype):
    x = np.array(3.5, dtype)
    for name, (ours, _) in OPS.items():
        if name in ("var", "std"):
            assert np.isnan(ours(x))
        else:
            assert_same(ours(x), x)
            assert_same(ours(x, ()), x)
    grid = np.arange(12, dtype=dtype).reshape(3, 4)
    assert_same(kernels.sum(grid, ()), grid)


def test_variance_does_not_cancel(level, dtype, rng):
    # A mean 1000 times the deviation: E[x^2] - E[x]^2 would lose all digits in float32.
    for shape, axis in (((3, 50_000), 1), ((50_000, 3), 0), ((50_000, 40), 0), ((300_001,), None)):
        x = (1000 + rng.standard_normal(shape)).astype(dtype)
        expected = np.var(x.astype(np.float64), axis=axis)
        for correction in (0, 1, 2.5):
            count = x.size // max(np.size(expected), 1)
            got = kernels.var(x, axis, correction=correction)
            np.testing.assert_allclose(
                got, expected * count / (count - correction), rtol=1e-4 if dtype == np.float32
                else 1e-11,
            )  # fmt: skip
        assert_same_bits(lambda x=x, axis=axis: kernels.var(x, axis))
    assert np.isnan(kernels.var(np.ones(3, dtype), correction=3))
    assert np.isinf(kernels.var(np.arange(3, dtype=dtype), correction=4))
    assert kernels.var(np.full(9, 0.1, dtype)) <= 1e-15


def test_logsumexp_of_large_numbers(level, dtype, rng):
    for shape, axis in (((4, 3000), 1), ((3000, 4), 0), ((200_000,), None)):
        x = (1e4 * rng.standard_normal(shape)).astype(dtype)
        expected = logsumexp(x.astype(np.float64), axis)
        np.testing.assert_allclose(kernels.logsumexp(x, axis), expected, rtol=1e-5)
        assert_same_bits(lambda x=x, axis=axis: kernels.logsumexp(x, axis))
    inf = np.inf
    x = np.array([[-inf, -inf, -inf], [inf, 1, -inf], [inf, inf, 0], [-inf, 2, -inf]], dtype)
    expected = np.array([-inf, inf, inf, 2], dtype)
    assert_same(kernels.logsumexp(x, 1), expected)
    assert_same(kernels.logsumexp(x.T, 0), expected)
    long = np.full(200_000, -inf, dtype)
    assert kernels.logsumexp(long) == -inf
    long[150_000] = -500
    assert kernels.logsumexp(long) == -500
    assert kernels.logsumexp(np.empty(0, dtype)) == -inf


@pytest.mark.parametrize("order", [0, 1, 2, 3, 0.5, -1, np.inf, -np.inf])
def test_orders_of_the_norm(order, dtype, rng):
    x = rng.uniform(0.1, 2, (5, 7, 9)).astype(dtype) * rng.choice([-1, 1], (5, 7, 9)).astype(dtype)
    for axis in (None, 1, (0, 2)):
        flat = np.moveaxis(x, 1, -1).reshape(-1, 7) if axis == 1 else x.reshape(1, -1)
        if axis == (0, 2):
            flat = np.moveaxis(x, 1, 0).reshape(7, -1)
        expected = np.linalg.norm(flat.astype(np.float64), order, axis=1)
        got = kernels.norm(x, axis, ord=order)
        np.testing.assert_allclose(got.ravel(), expected, rtol=1e-4)
        out = np.empty_like(got)
        assert kernels.norm(x, axis, ord=order, out=out) is out
        assert_same(out, got)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_places(name, level, dtype, rng):
    ours, numpys = getattr(kernels, name), getattr(np, name)
    for size in (*EDGE_SIZES[1:], 5000):
        for shape in ((size,), (3, size), (size, 37), (size, 1)):
            x = rng.integers(0, 9, shape).astype(dtype)  # with ties
            for axis in (None, *range(len(shape))):
                assert_same(ours(x, axis), np.asarray(numpys(x, axis)))
    x = rng.integers(0, 50, (4, 6, 19)).astype(dtype)
    x[1, 2, 3] = x[1, 2, 5] = x[3, 0, 18] = np.nan
    for layout in LAYOUTS:
        part = with_layout(x, layout)
        for axis in (None, 0, 1, 2, -1):
            assert_same(ours(part, axis), np.asarray(numpys(x, axis)), layout)
            kept = np.asarray(numpys(x, axis, keepdims=True))
            out = np.empty(kept.shape[::-1], np.int64).transpose()
            assert ours(part, axis, keepdims=True, out=out) is out
            assert_same(np.ascontiguousarray(out), kept, layout)
    x = rng.integers(0, 1000, 300_007).astype(dtype)
    assert_same(ours(x), np.asarray(numpys(x)))
    assert_same(ours(x[::-3]), np.asarray(numpys(x[::-3])))
    x[[299_999, 200_000]] = np.nan
    assert ours(x) == 200_000
    assert_same_bits(lambda: ours(x))
    assert_same_bits(lambda: ours(x[:300_000].reshape(300, 1000), 0))
    with pytest.raises(hl.ShapeError, match=f"{name}: x must have an element along the axis"):
        ours(np.empty((3, 0), dtype), 1)
    assert ours(np.empty((3, 0), dtype), 0).shape == (0,)
    with pytest.raises(hl.DTypeError, match="out must be an ndarray of int64"):
        ours(x, out=np.empty((), np.int32))
    with pytest.raises(hl.ShapeError, match=r"out must have shape \(\), got \(2,\)"):
        ours(x, out=np.empty(2, np.int64))


def test_running_sums(level, dtype, rng):
    for shape in ((1,), (50,), (7, 33), (33, 7), (2, 19, 300), (3, 0)):
        x = rng.standard_normal(shape).astype(dtype)
        for axis in range(-len(shape), len(shape)):
            expected = np.cumsum(x.astype(np.float64), axis).astype(dtype)
            for layout in LAYOUTS:
                out = empty_with_layout(shape, dtype, layout)
                assert kernels.cumsum(with_layout(x, layout), axis, out=out) is out
                assert_same(np.ascontiguousarray(out), expected, layout)
            assert_same(kernels.cumsum(x, axis), expected)
        y = x.copy()
        assert_same(kernels.cumsum(y, 0, out=y), np.cumsum(x.astype(np.float64), 0).astype(dtype))
    x = rng.standard_normal((300, 700)).astype(dtype)
    for axis in (0, 1):
        assert_same_bits(lambda axis=axis: kernels.cumsum(x, axis))
    with pytest.raises(hl.ShapeError, match="cumsum"):
        kernels.cumsum(x, 2)


def test_nothing_is_written_around_out(level, dtype, rng):
    for columns in (1, 7, 31, 100):
        out, intact = guarded(columns, dtype)
        kernels.sum(rng.standard_normal((9, columns)).astype(dtype), 0, out=out)
        kernels.sum(rng.standard_normal((columns, 9)).astype(dtype), 1, out=out)
        intact()


def test_errors(dtype):
    x = np.ones((2, 3), dtype)
    with pytest.raises(hl.ShapeError, match=r"sum: axis must lie in \[-2, 2\), got 2"):
        kernels.sum(x, 2)
    with pytest.raises(hl.ShapeError, match="twice"):
        kernels.mean(x, (0, -2))
    with pytest.raises(hl.DTypeError, match="max: x must be float32 or float64"):
        kernels.max(np.ones(3, np.int32))
    with pytest.raises(hl.DTypeError, match=r"min: x must be a numpy\.ndarray"):
        kernels.min([1.0])
    with pytest.raises(hl.ShapeError, match=r"out must have shape \(2,\), got \(3,\)"):
        kernels.sum(x, 1, out=np.ones(3, dtype))
    with pytest.raises(hl.DTypeError):
        kernels.sum(x, 1, out=np.ones(2, np.float32 if dtype is np.float64 else np.float64))
    with pytest.raises(hl.OutputError, match="overlap"):
        kernels.sum(x, 1, out=x[:, 0])
    frozen = np.ones(2, dtype)
    frozen.setflags(write=False)
    with pytest.raises(hl.OutputError, match="writable"):
        kernels.sum(x, 1, out=frozen)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_variance_of_long_rows_neither_cancels_nor_hides_a_number_that_is_none(level, kind):
    """Blocks after the first take distances from the mean so far: the hard cases for that."""
    size = 20_011
    noise = np.random.default_rng(7).standard_normal(size)
    outlier, late = noise.copy(), noise.copy()
    outlier[0] = 1e6
    late[size // 2 :] += 1e5
    eps = float(np.finfo(kind).eps)
    for hard in (noise + 1000, np.linspace(0, 1, size), outlier, late, np.full(size, 7.25)):
        x = hard.astype(kind)
        want = float(np.var(x.astype(np.longdouble)))
        # Besides a few roundings: half an ULP of the mean, squared.
        bound = 200 * eps * want + (eps * float(np.abs(x).max())) ** 2
        assert abs(float(kernels.var(x, correction=0)) - want) <= bound
        two = kernels.var(np.stack([x, x[::-1]]), 1, correction=0)
        assert np.abs(two - want).max() <= bound
    for at in (0, 4095, 4096, 9000, size - 1):
        for bad in (np.nan, np.inf, -np.inf):
            x = noise.astype(kind)
            x[at] = bad
            assert np.isnan(kernels.var(x, correction=0)), (at, bad)
