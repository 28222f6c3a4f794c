"""linear and its gradients."""

from __future__ import annotations

import numpy as np
import pytest

from hotloop import DTypeError, OutputError, ShapeError
from hotloop.kernels import gemm_pack, linear, linear_backward
from reference import (
    LAYOUTS,
    assert_close,
    assert_gradient,
    assert_same_bits,
    empty_with_layout,
    with_layout,
)


def integers(rng, shape, dtype):
    return rng.integers(-3, 4, shape).astype(dtype)


@pytest.mark.parametrize("lead", [(), (1,), (5,), (33,), (2, 3), (4, 1), (2, 1, 3), (0,)])
@pytest.mark.parametrize("features", [(7, 5), (1, 3), (70, 10), (3, 1), (300, 64)])
def test_exact_on_integers(level, dtype, lead, features, rng):
    inputs, outputs = features
    x, w = integers(rng, (*lead, inputs), dtype), integers(rng, (outputs, inputs), dtype)
    b = integers(rng, outputs, dtype)
    np.testing.assert_array_equal(linear(x, w), x @ w.T)
    np.testing.assert_array_equal(linear(x, w, b), x @ w.T + b)
    out = empty_with_layout((*lead, outputs), dtype, "contiguous")
    assert linear(x, w, b, activation="relu", out=out) is out
    np.testing.assert_array_equal(out, np.maximum(x @ w.T + b, 0))

    dy = integers(rng, (*lead, outputs), dtype)
    dx, dw, db = linear_backward(dy, x, w)
    rows_dy, rows_x = dy.reshape(-1, outputs), x.reshape(-1, inputs)
    np.testing.assert_array_equal(dx, dy @ w)
    np.testing.assert_array_equal(dw, rows_dy.T @ rows_x)
    np.testing.assert_array_equal(db, rows_dy.sum(0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(dtype, layout, rng):
    x, w, b = (integers(rng, shape, dtype) for shape in ((3, 4, 6), (5, 6), (5,)))
    dy = integers(rng, (3, 4, 5), dtype)
    views = [with_layout(a, layout) for a in (x, w, b)]
    out = empty_with_layout((3, 4, 5), dtype, layout)
    np.testing.assert_array_equal(linear(*views, out=out), x @ w.T + b)
    dx, dw, db = linear_backward(with_layout(dy, layout), *views[:2])
    np.testing.assert_array_equal(dx, dy @ w)
    np.testing.assert_array_equal(dw, dy.reshape(-1, 5).T @ x.reshape(-1, 6))
    np.testing.assert_array_equal(db, dy.sum((0, 1)))


def test_rows_of_one_and_unusual_axes(rng):
    w = integers(rng, (5, 6), np.float32)
    wide = integers(rng, (4, 6, 3), np.float32)
    for x in (wide.transpose(0, 2, 1), wide.transpose(2, 0, 1), wide[:, :, :1].transpose(0, 2, 1)):
        np.testing.assert_array_equal(linear(x, w), x @ w.T)
        dy = integers(rng, (*x.shape[:2], 5), np.float32)
        np.testing.assert_array_equal(
            linear_backward(dy, x, w)[1], dy.reshape(-1, 5).T @ x.reshape(-1, 6)
        )


def test_long_batches(level, dtype, rng):
    """The weight's gradient over a long batch: slices of k, sums of many rows."""
    x, w = rng.standard_normal((5000, 20)).astype(dtype), np.zeros((30, 20), dtype)
    dy = rng.standard_normal((5000, 30)).astype(dtype)
    _, dw, db = linear_backward(dy, x, w)
    left, right = dy.astype(np.float64), x.astype(np.float64)
    assert_close(dw, left.T @ right, 5000, kind="product", scale=np.abs(left.T) @ np.abs(right))
    assert_close(db, left.sum(0), 200, scale=np.abs(left).sum(0))


@pytest.mark.parametrize("lead", [(), (5,), (33,), (2, 3), (0,)])
def test_packed_weights_and_residual(level, dtype, lead, rng):
    x, w, b = (integers(rng, size, dtype) for size in ((*lead, 70), (130, 70), (130,)))
    residual = integers(rng, (*lead, 130), dtype)
    expected = np.maximum(x @ w.T + b + residual, 0)
    pack = gemm_pack(w, trans_b=True)
    for weights in (w, pack):
        got = linear(x, weights, b, activation="relu", residual=residual)
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ShapeError, match="must have the 70 input features of w"):
        linear(x[..., :69], pack)


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(1, 5, 7), (3, 0, 4), (40, 70, 9), (2500, 30, 20), (300, 500, 16), (700, 900, 130), (64, 1, 3),
     (5, 3000, 100)],
)  # fmt: skip
def test_the_sums_of_db_for_each_plan(level, dtype, rows, inputs, outputs, rng):
    """db is summed beside the tiles of dw, in slices of the batch, or on its own."""
    dy, x = integers(rng, (rows, outputs), dtype), integers(rng, (rows, inputs), dtype)
    w = np.zeros((outputs, inputs), dtype)
    for gradient in (dy, np.asfortranarray(dy), np.repeat(dy, 2, 1)[:, ::2]):
        _, dw, db = linear_backward(gradient, x, w)
        np.testing.assert_array_equal(dw, dy.T @ x)
        np.testing.assert_array_equal(db, dy.sum(0))


def test_gradients(rng):
    x, w, b = (rng.standard_normal(shape) for shape in ((2, 3, 4), (5, 4), (5,)))
    dy = rng.standard_normal((2, 3, 5))
    dx, dw, db = linear_backward(dy, x, w)
    assert_gradient(dx, lambda: linear(x, w, b), x, dy, name="dx")
    assert_gradient(dw, lambda: linear(x, w, b), w, dy, name="dw")
    assert_gradient(db, lambda: linear(x, w, b), b, dy, name="db")


def test_only_the_gradients_that_are_needed(rng):
    x, w, dy = (integers(rng, shape, np.float32) for shape in ((3, 4), (5, 4), (3, 5)))
    dx, dw, db = linear_backward(dy, x, w, need_dx=False, need_db=False)
    assert dx is None
    assert db is None
    np.testing.assert_array_equal(dw, dy.T @ x)


def test_the_bits_do_not_depend_on_threads(level, rng):
    x, w = rng.standard_normal((3000, 100), np.float32), rng.standard_normal((90, 100), np.float32)
    dy = rng.standard_normal((3000, 90), np.float32)
    assert_same_bits(lambda: linear(x, w, activation="relu"))
    assert_same_bits(lambda: linear_backward(dy, x, w))


def test_errors_say_what_to_do(rng):
    x, w = integers(rng, (3, 4), np.float32), integers(rng, (5, 4), np.float32)
    with pytest.raises(ShapeError, match=r"last axis of x must have the 4 input features of w"):
        linear(x[:, :3], w)
    with pytest.raises(ShapeError, match="last axis of x"):
        linear(np.ones((), np.float32), w)
    with pytest.raises(ShapeError, match="w must have 2 axes"):
        linear(x, w[0])
    with pytest.raises(ShapeError, match=r"b must have shape \(5,\), got \(4,\)"):
        linear(x, w, np.ones(4, np.float32))
    with pytest.raises(DTypeError, match="x and w must have the same dtype"):
        linear(x, w.astype(np.float64))
    with pytest.raises(OutputError, match="overlap x"):
        linear(x, np.ones((4, 4), np.float32), out=x)
    with pytest.raises(ShapeError, match=r"dy must have shape \(3, 5\)"):
        linear_backward(np.ones((3, 4), np.float32), x, w)
    with pytest.raises(ShapeError, match="last axis of x"):
        linear_backward(np.ones((3, 5), np.float32), x[:, :2], w)
