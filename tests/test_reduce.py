"""sum, mean, max, min over any axes."""

from __future__ import annotations

import itertools

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

OPS = {
    "sum": (kernels.sum, np.sum),
    "mean": (kernels.mean, np.mean),
    "max": (kernels.max, np.max),
    "min": (kernels.min, np.min),
}


def check(name, x, axis, keepdims=False, out=None):
    ours, numpys = OPS[name]
    got = ours(x, axis, keepdims=keepdims, out=out)
    expected = numpys(x.astype(np.float64), axis=axis, keepdims=keepdims)
    if name in ("max", "min"):
        assert_same(got, np.asarray(expected, dtype=x.dtype))
        return
    terms = x.size // max(expected.size, 1)
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
    check(name, rng.standard_normal((2, 3, 200, 301)).astype(dtype), (0, 2, 3))
    check(name, rng.standard_normal((2, 3, 90, 1200)).astype(dtype)[..., ::3], (0, 2, 3))


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
                assert np.isnan(ours(x)), name
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
    for ours, _ in OPS.values():
        assert_same(ours(x), x)
        assert_same(ours(x, ()), x)
    grid = np.arange(12, dtype=dtype).reshape(3, 4)
    assert_same(kernels.sum(grid, ()), grid)


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
