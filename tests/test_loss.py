"""cross_entropy and mse_loss, with and without their gradients."""

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
    with_layout,
)


def check_cross_entropy(logits, labels, reduction="mean", out=None):
    """Classes are the last axis of the reference, axis 1 of the logits."""
    moved = np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])
    flat = labels.reshape(-1)
    counted = flat != -100
    losses, gradient = reference.cross_entropy(moved, np.where(counted, flat, 0))
    losses = np.where(counted, losses, 0)
    gradient = np.where(counted[:, None], gradient, 0)
    scale = 1 / counted.sum() if reduction == "mean" else 1
    shape = (logits.shape[0], *logits.shape[2:], logits.shape[1])
    gradient = np.moveaxis((gradient * scale).reshape(shape), -1, 1)
    expected = losses.reshape(labels.shape) if reduction == "none" else losses.sum() * scale

    depth = 4 + logits.shape[1] // 64
    loss = kernels.cross_entropy(logits, labels, reduction=reduction)
    assert loss.dtype == logits.dtype
    assert_close(loss, expected, depth, kind="composed")
    loss_again, dlogits = kernels.cross_entropy_with_grad(
        logits, labels, reduction=reduction, out=out
    )
    # The order of a row's sum follows the memory layout of all arrays, dlogits included.
    assert_close(loss_again, expected, depth, kind="composed")
    assert_close(dlogits, gradient, depth, kind="composed")
    if out is not None:
        assert dlogits is out


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_at_the_edges(reduction, level, dtype, rng):
    for size in EDGE_SIZES[1:]:
        for rows, classes in ((5, size), (size, 5)):
            logits = 3 * rng.standard_normal((rows, classes)).astype(dtype)
            labels = rng.integers(0, classes, rows)
            check_cross_entropy(logits, labels, reduction)
            check_cross_entropy(logits, labels.astype(np.int32), reduction)
            check_cross_entropy(np.asfortranarray(logits), labels, reduction)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cross_entropy_layouts(layout, level, dtype, rng):
    for shape in ((19, 21), (3, 5, 18), (2, 3, 4, 5)):
        logits = rng.standard_normal(shape).astype(dtype)
        labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
        check_cross_entropy(with_layout(logits, layout), labels)
        check_cross_entropy(logits, with_layout(labels, layout), "none")
        check_cross_entropy(logits, labels, out=empty_with_layout(shape, dtype, layout))
        out = empty_with_layout(shape, dtype, layout)
        check_cross_entropy(with_layout(logits, layout), with_layout(labels, layout), "sum", out)


def test_cross_entropy_of_one_row(level, dtype, rng):
    logits = rng.standard_normal(7).astype(dtype)
    loss, dlogits = kernels.cross_entropy_with_grad(logits, np.array(3))
    expected, gradient = reference.cross_entropy(logits[None], np.array([3]))
    assert_close(loss, expected[0], kind="composed")
    assert_close(dlogits, gradient[0], kind="composed")


def test_cross_entropy_in_place(level, dtype, rng):
    for order in "CF":
        logits = np.array(rng.standard_normal((33, 18)), dtype, order=order)
        labels = rng.integers(0, 18, 33)
        loss, dlogits = kernels.cross_entropy_with_grad(
            logits, labels, out=np.empty_like(logits, order="A")
        )
        loss_again, same = kernels.cross_entropy_with_grad(logits, labels, out=logits)
        assert same is logits
        assert_same(logits, dlogits)
        assert_same(loss_again, loss)


def test_ignored_rows(level, dtype, rng):
    logits = rng.standard_normal((9, 6)).astype(dtype)
    labels = rng.integers(0, 6, 9)
    labels[[0, 4, 8]] = -100
    for order in (logits, np.asfortranarray(logits)):
        for reduction in ("mean", "sum", "none"):
            check_cross_entropy(order, labels, reduction)
    logits[4] = np.nan
    loss, dlogits = kernels.cross_entropy_with_grad(logits, labels)
    assert np.isfinite(loss)
    assert not dlogits[[0, 4, 8]].any()
    loss, dlogits = kernels.cross_entropy_with_grad(logits, np.full(9, -100))
    assert np.isnan(loss)
    assert not dlogits.any()
    labels = np.array([0, 1, 5, 1, 0, 5, 5, 5, 5])
    kept = kernels.cross_entropy(logits[[0, 1, 3]], labels[[0, 1, 3]], reduction="sum")
    ignored = kernels.cross_entropy(np.nan_to_num(logits), labels, ignore_index=5, reduction="none")
    assert_close(ignored[[0, 1, 3]].sum(), kept, kind="composed")
    assert not ignored[[2, 5, 6, 7, 8]].any()


def test_cross_entropy_of_large_and_special_logits(level, dtype):
    logits = np.array([[1e4, 0, -1e4], [-1e4, 0, 1e4], [0, -np.inf, 0], [np.nan, 0, 0]], dtype)
    loss, dlogits = kernels.cross_entropy_with_grad(
        logits, np.array([0, 0, 0, 1]), reduction="none"
    )
    assert loss[0] == 0
    assert_close(loss[1], 2e4)
    assert_close(loss[2], np.log(2))
    assert np.isnan(loss[3])
    assert_close(dlogits[:3], [[0, 0, 0], [-1, 0, 1], [-0.5, 0, 0.5]])
    assert np.isnan(dlogits[3]).all()


def test_same_bits_for_any_number_of_threads(rng):
    logits = rng.standard_normal((3001, 47)).astype(np.float32)
    labels = rng.integers(0, 47, 3001)
    assert_same_bits(lambda: kernels.cross_entropy_with_grad(logits, labels))
    images = rng.standard_normal((3, 11, 40, 50)).astype(np.float32)
    marks = rng.integers(0, 11, (3, 40, 50))
    assert_same_bits(lambda: kernels.cross_entropy_with_grad(images, marks))
    x, target = rng.standard_normal((2, 300_001)).astype(np.float32)
    assert_same_bits(lambda: kernels.mse_loss_with_grad(x, target))


def test_gradients(level, rng):
    logits = rng.standard_normal((4, 5))
    labels = rng.integers(0, 5, 4)
    target = rng.standard_normal((4, 5))
    for reduction in ("mean", "sum"):
        _, dlogits = kernels.cross_entropy_with_grad(logits, labels, reduction=reduction)
        assert_gradient(
            dlogits,
            lambda r=reduction: kernels.cross_entropy(logits, labels, reduction=r),
            logits,
        )
        _, dx = kernels.mse_loss_with_grad(logits, target, reduction=reduction)
        assert_gradient(
            dx, lambda r=reduction: kernels.mse_loss(logits, target, reduction=r), logits
        )


def test_a_label_out_of_range_writes_nothing(dtype):
    logits = np.ones((3, 4), dtype)
    out = np.full((3, 4), 77, dtype)
    for wrong in (4, -1, 2**31 - 1):
        labels = np.array([0, 1, wrong], np.int32)
        message = rf"labels must lie in \[0, 4\) for 4 classes, got {wrong} at position \(2,\)"
        with pytest.raises(ValueError, match=message):
            kernels.cross_entropy(logits, labels)
        with pytest.raises(ValueError, match=message):
            kernels.cross_entropy_with_grad(logits, labels, out=out)
        assert (out == 77).all()
    with pytest.raises(ValueError, match=r"got -7 at position \(1, 0\)"):
        kernels.cross_entropy(np.ones((2, 4, 2), dtype), np.array([[0, 1], [-7, 9]]))


def test_cross_entropy_errors(dtype):
    logits, labels = np.ones((3, 4), dtype), np.zeros(3, np.int64)
    with pytest.raises(hl.ShapeError, match=r"labels must have shape \(3,\).* got \(3, 1\)"):
        kernels.cross_entropy(logits, labels[:, None])
    with pytest.raises(hl.DTypeError, match="labels must be int64 or int32"):
        kernels.cross_entropy(logits, labels.astype(np.float32))
    with pytest.raises(hl.DTypeError, match=r"labels must be a numpy\.ndarray"):
        kernels.cross_entropy(logits, [0, 1, 2])
    with pytest.raises(ValueError, match=r"reduction must be .* got 'avg'"):
        kernels.cross_entropy(logits, labels, reduction="avg")
    with pytest.raises(hl.ShapeError, match="something to average"):
        kernels.cross_entropy(logits[:0], labels[:0])
    assert kernels.cross_entropy(logits[:0], labels[:0], reduction="sum") == 0
    assert kernels.cross_entropy(logits[:0], labels[:0], reduction="none").shape == (0,)
    with pytest.raises(ValueError, match="got 0 at position"):
        kernels.cross_entropy(logits[:, :0], labels)
    with pytest.raises(hl.OutputError, match="overlap"):
        kernels.cross_entropy_with_grad(logits[:2], labels[:2], out=logits[1:])
    shared = np.zeros(8, np.int64)
    with pytest.raises(hl.OutputError, match="labels"):
        kernels.cross_entropy_with_grad(
            np.ones((2, 3)), shared[:2], out=shared.view(np.float64)[1:7].reshape(2, 3)
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse_loss(reduction, layout, level, dtype, rng):
    shapes = [(size,) for size in EDGE_SIZES[1:]] + [(), (3, 5), (2, 3, 4), (7, 1001)]
    for shape in shapes:
        x = with_layout(np.asarray(rng.standard_normal(shape), dtype), layout)
        target = np.asarray(rng.standard_normal(shape), dtype)
        square = (x.astype(np.float64) - target) ** 2
        scale = 1 / x.size if reduction == "mean" else 1
        expected = square if reduction == "none" else square.sum() * scale
        loss = kernels.mse_loss(x, target, reduction=reduction)
        assert_close(loss, expected, 40)
        out = empty_with_layout(shape, dtype, layout)
        again, dx = kernels.mse_loss_with_grad(x, target, reduction=reduction, out=out)
        assert dx is out
        assert_same(again, loss)
        assert_close(dx, 2 * scale * (x.astype(np.float64) - target), 4)
        again, dx = kernels.mse_loss_with_grad(x, target, reduction=reduction, out=x)
        assert dx is x
        assert_same(again, loss)
        assert_same(dx, np.array(out))


def test_mse_loss_errors(dtype):
    column = np.ones((8, 1), dtype)
    with pytest.raises(hl.ShapeError, match=r"same shape, got \(8, 1\) and \(8,\); reshape"):
        kernels.mse_loss(column, np.ones(8, dtype))
    with pytest.raises(hl.ShapeError):
        kernels.mse_loss_with_grad(column, np.ones((1, 8), dtype))
    with pytest.raises(hl.ShapeError, match="something to average"):
        kernels.mse_loss(column[:0], column[:0])
    assert kernels.mse_loss(column[:0], column[:0], reduction="sum") == 0
    with pytest.raises(hl.DTypeError, match="same dtype"):
        kernels.mse_loss(np.ones(2, np.float32), np.ones(2, np.float64))
    with pytest.raises(hl.OutputError, match="overlap"):
        kernels.mse_loss_with_grad(column[1:], column[1:].copy(), out=column[:-1])
