"""softmax and log_softmax, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
import reference
from hotloop import kernels
from reference import (
    EDGE_SIZES,
    LAYOUTS,
    assert_close,
    assert_gradient,
    assert_same,
    assert_same_bits,
    empty_with_layout,
    guarded,
    with_layout,
)

FORWARD = {
    "softmax": (kernels.softmax, reference.softmax),
    "log_softmax": (kernels.log_softmax, reference.log_softmax),
}


def backward_reference(name, dy, y, axis):
    dy, y = dy.astype(np.float64), y.astype(np.float64)
    if name == "softmax":
        return y * (dy - (dy * y).sum(axis=axis, keepdims=True))
    return dy - np.exp(y) * dy.sum(axis=axis, keepdims=True)


def check_forward(name, x, axis=-1, out=None):
    ours, expected = FORWARD[name]
    got = ours(x, axis=axis, out=out)
    assert_close(got, expected(x, axis), 1 + x.shape[axis] // 64, kind="composed")
    if out is not None:
        assert got is out


def check_backward(name, dy, y, axis=-1, out=None):
    ours = getattr(kernels, f"{name}_backward")
    got = ours(dy, y, axis=axis, out=out)
    expected = backward_reference(name, dy, y, axis)
    # Terms of size |dy| are added and cancel.
    scale = max(1.0, float(np.abs(dy).sum(axis=axis).max()))
    assert_close(got, expected, 1 + y.shape[axis] // 64, kind="composed", scale=scale)
    if out is not None:
        assert got is out


@pytest.mark.parametrize("name", FORWARD)
def test_sizes_at_the_edges(name, level, dtype, rng):
    for size in EDGE_SIZES[1:]:
        for shape, axis in (((size,), 0), ((3, size), 1), ((size, 5), 1), ((size, 5), 0)):
            x = 3 * rng.standard_normal(shape).astype(dtype)
            check_forward(name, x, axis)
            y = FORWARD[name][1](x, axis).astype(dtype)
            check_backward(name, rng.standard_normal(shape).astype(dtype), y, axis)
        check_forward(name, rng.standard_normal((7, size)).astype(dtype), 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FORWARD)
def test_layouts_of_inputs_and_output(name, layout, level, dtype, rng):
    x = rng.standard_normal((3, 19, 21)).astype(dtype)
    dy = rng.standard_normal(x.shape).astype(dtype)
    for axis in range(-3, 3):
        y = FORWARD[name][1](x, axis).astype(dtype)
        check_forward(name, with_layout(x, layout), axis)
        check_forward(name, x, axis, out=empty_with_layout(x.shape, dtype, layout))
        check_backward(name, with_layout(dy, layout), y, axis)
        check_backward(name, dy, with_layout(y, layout), axis)
        check_backward(name, dy, y, axis, out=empty_with_layout(x.shape, dtype, layout))
    check_forward(name, np.broadcast_to(x[:1], x.shape), 1)
    check_forward(name, np.broadcast_to(x[..., :1], x.shape), 2)
    check_forward(name, x.transpose(2, 0, 1), 0)


@pytest.mark.parametrize("name", FORWARD)
def test_in_place(name, level, dtype, rng):
    for layout in ("contiguous", "negative", "fortran"):
        for axis in (0, 1):
            # The order of a sum follows the layout, so every array here has the same one.
            x, dy, y, dx = (
                with_layout(rng.standard_normal((33, 18)).astype(dtype), layout) for _ in range(4)
            )
            FORWARD[name][0](x, axis=axis, out=y)
            assert_same(FORWARD[name][0](x, axis=axis, out=x), y)
            backward = getattr(kernels, f"{name}_backward")
            backward(dy, y, axis=axis, out=dx)
            assert_same(backward(dy, x, axis=axis, out=x), dx)
            assert_same(backward(dy, y, axis=axis, out=dy), dx)


@pytest.mark.parametrize("name", FORWARD)
def test_long_rows(name, level, dtype, rng):
    x = 5 * rng.standard_normal((2, 50_257)).astype(dtype)
    check_forward(name, x)
    check_forward(name, x.T, 0)
    check_backward(name, rng.standard_normal(x.shape).astype(dtype), FORWARD[name][0](x))


def test_long_rows_are_written_while_the_next_is_computed(level, dtype, rng):
    """Arrays beyond the caches: each row as it is alone, whichever stands before or behind it."""
    rows, size = 120, 27_001
    x = rng.standard_normal((rows, size)).astype(dtype)
    x[3] += np.linspace(0, 300, size)  # the maximum rises
    x[4] -= np.linspace(0, 300, size)
    x[5, :4096] = -np.inf
    memory = np.full(rows * size + 64, 7.0, dtype)
    out = memory[5 : 5 + rows * size].reshape(rows, size)  # lines begin elsewhere in each row
    kernels.softmax(x, out=out)
    assert (memory[:5] == 7).all()
    assert (memory[5 + rows * size :] == 7).all()
    for row in (0, 1, 3, 4, 5, 6, 7, 8, 59, 60, 118, 119):
        alone = kernels.softmax(x[row : row + 1])[0]
        np.testing.assert_allclose(out[row], alone, rtol=1e-6 if dtype == np.float32 else 1e-14)
    np.testing.assert_allclose(out.sum(axis=1, dtype=np.float64), 1, rtol=1e-5)
    assert_same_bits(lambda: kernels.softmax(x, out=out).copy())


@pytest.mark.parametrize("size", [2047, 2048, 2049, 4097, 7000])
def test_rows_of_several_pieces(size, level, dtype, rng):
    """The base of the exponentials moves from piece to piece; a piece may hold nothing but -inf."""
    x = rng.standard_normal((6, size)).astype(dtype)
    x[0] += np.linspace(0, 300, size)  # the maximum rises
    x[1] -= np.linspace(0, 300, size)
    x[2, :2048] = -np.inf
    x[2, -1] = 1
    x[3, 2:] = -np.inf
    x[4] -= 1e4
    x[5] = -50
    x[5, -1] = 1e4
    shift = x - x.max(axis=1, keepdims=True)
    y = np.exp(shift.astype(np.float64))
    y /= y.sum(axis=1, keepdims=True)
    own = x.copy()
    for source, out in ((x, None), (x, np.empty_like(x)), (own, own)):
        got = kernels.softmax(source, out=out)
        rtol = 1e-4 if dtype == np.float32 else 1e-12  # of x - max, up to 300
        np.testing.assert_allclose(got, y, rtol=rtol, atol=1e-30)
    assert_close(kernels.log_softmax(x[:2]), np.log(y[:2]), 2, kind="composed", scale=300)
    bad = x[4:].copy()
    bad[0] = -np.inf
    bad[1, 3] = np.nan
    assert np.isnan(kernels.softmax(bad)).all()
    bad[1, 3] = np.inf
    assert np.isnan(kernels.softmax(bad[1])).all()
    assert_same_bits(lambda: kernels.softmax(x))


@pytest.mark.parametrize("name", FORWARD)
def test_same_bits_for_any_number_of_threads(name, rng):
    for shape, axis in (((700, 133), 1), ((4, 30, 1000), 1), ((30_000, 3), 1)):
        x = rng.standard_normal(shape).astype(np.float32)
        dy = rng.standard_normal(shape).astype(np.float32)
        y = FORWARD[name][0](x, axis=axis)
        backward = getattr(kernels, f"{name}_backward")
        assert_same_bits(lambda x=x, axis=axis: FORWARD[name][0](x, axis=axis))
        assert_same_bits(lambda dy=dy, y=y, axis=axis, op=backward: op(dy, y, axis=axis))


def test_rows_sum_to_one_and_large_values_do_not_overflow(level, dtype):
    x = np.array([[1e4, 1e4 - 1, 0], [-1e4, -1e4 - 2, -2e4], [3e38, 0, -3e38]], dtype)
    y = kernels.softmax(x)
    assert_close(y.sum(axis=1), np.ones(3), 4)
    assert np.isfinite(kernels.log_softmax(x[:2])).all()
    assert_close(y, reference.softmax(x), kind="composed")


def test_nan_and_infinity(level, dtype):
    for size in (2, 5, 16, 33, 200):
        row = np.linspace(-1, 1, size).astype(dtype)
        rows = np.stack([row] * 5)
        rows[0, size // 2] = np.nan
        rows[1, -1] = np.inf
        rows[2, :] = -np.inf
        rows[3, 0] = -np.inf
        for axis, x in ((1, rows), (0, np.ascontiguousarray(rows.T))):
            y = kernels.softmax(x, axis=axis) if axis else kernels.softmax(x, axis=0).T
            assert np.isnan(y[0]).all()
            assert np.isnan(y[1, -1])
            assert np.isnan(y[2]).all()
            assert y[3, 0] == 0
            assert_close(y[3:].sum(axis=1), np.ones(2), size)
            log_y = kernels.log_softmax(x, axis=axis)
            log_y = log_y if axis else log_y.T
            assert np.isnan(log_y[[0, 2]]).all()
            assert log_y[3, 0] == -np.inf


@pytest.mark.parametrize("name", FORWARD)
def test_gradients(name, level, rng):
    for axis in (0, 1):
        x = rng.standard_normal((4, 5))
        dy = rng.standard_normal((4, 5))
        forward = FORWARD[name][0]
        dx = getattr(kernels, f"{name}_backward")(dy, forward(x, axis=axis), axis=axis)
        assert_gradient(dx, lambda x=x, axis=axis, op=forward: op(x, axis=axis), x, dy)


@pytest.mark.parametrize("name", FORWARD)
def test_empty_arrays(name, level, dtype):
    for shape in ((0, 3), (3, 0), (0,)):
        x = np.empty(shape, dtype)
        assert FORWARD[name][0](x).shape == shape
        assert getattr(kernels, f"{name}_backward")(x, x).shape == shape


@pytest.mark.parametrize("name", FORWARD)
def test_nothing_is_written_around_out(name, level, dtype, rng):
    for shape in ((3, 7), (7, 3), (1, 33)):
        for axis in (0, 1):
            out, intact = guarded(shape, dtype)
            FORWARD[name][0](rng.standard_normal(shape).astype(dtype), axis=axis, out=out)
            intact()


@pytest.mark.parametrize("name", FORWARD)
def test_errors(name, dtype):
    forward, backward = FORWARD[name][0], getattr(kernels, f"{name}_backward")
    x = np.ones((4, 3), dtype)
    with pytest.raises(hl.ShapeError, match=rf"{name}: axis must lie in \[-2, 2\), got 2"):
        forward(x, axis=2)
    with pytest.raises(hl.DTypeError, match=rf"{name}: axis must be an integer, got float"):
        forward(x, axis=1.0)
    with pytest.raises(hl.ShapeError, match="at least one axis"):
        forward(np.array(1, dtype))
    with pytest.raises(hl.DTypeError, match="must be float32 or float64"):
        forward(x.astype(np.int64))
    with pytest.raises(hl.ShapeError, match=r"dy must have shape \(4, 3\), got \(4, 2\)"):
        backward(x[:, :2], x)
    with pytest.raises(hl.DTypeError, match="same dtype"):
        backward(x.astype(np.float32), x.astype(np.float64))
    with pytest.raises(hl.OutputError, match="overlap"):
        forward(x[:-1], out=x[1:])
    with pytest.raises(hl.ShapeError, match="out must have shape"):
        forward(x, out=np.ones((3, 4), dtype))


@pytest.mark.parametrize("columns", [1003, 4500])
def test_arrays_larger_than_the_caches(level, columns, rng):
    """Written around the caches: the same bits as row by row."""
    rows = 13_000_000 // (4 * columns)
    x = rng.standard_normal((rows, columns), dtype=np.float32)
    parts = (slice(0, 30), slice(rows - 30, rows))
    for forward, backward in (
        (kernels.softmax, kernels.softmax_backward),
        (kernels.log_softmax, kernels.log_softmax_backward),
    ):
        y = forward(x)
        dx = backward(x, y)
        for part in parts:
            assert_same(y[part], forward(x[part]))
            assert_same(dx[part], backward(x[part], y[part]))
