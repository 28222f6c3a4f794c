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


# ---- every option of the losses by rows -------------------------------------------------------


def soft_reference(logits, target, weight, reduction, ignore_index, smoothing):
    """By the formula, classes last: (loss, gradient)."""
    logits = logits.astype(np.float64)
    classes = logits.shape[-1]
    weight = np.ones(classes) if weight is None else weight.astype(np.float64)
    logs = reference.log_softmax(logits)
    if target.dtype.kind == "f":
        shares = target.astype(np.float64)
        counted, total = np.ones(logits.shape[:-1], bool), logits[..., 0].size
    else:
        counted = target != ignore_index
        safe = np.where(counted, target, 0)
        shares = np.eye(classes)[safe]
        total = weight[safe][counted].sum()
    shares = (shares * (1 - smoothing) + smoothing / classes) * weight * counted[..., None]
    scale = 1 / total if reduction == "mean" else 1.0
    losses = -(shares * logs).sum(-1)
    gradient = scale * (np.exp(logs) * shares.sum(-1, keepdims=True) - shares)
    return losses if reduction == "none" else losses.sum() * scale, gradient


OPTIONS = [
    {"weight": True},
    {"label_smoothing": 0.3},
    {"label_smoothing": 1.0, "weight": True, "ignore_index": 1},
    {"probabilities": True},
    {"probabilities": True, "weight": True, "label_smoothing": 0.1},
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o))
def test_cross_entropy_options(options, reduction, level, dtype, rng):
    for shape in ((1, 1), (5, 17), (19, 33), (3, 18, 7), (40, 5)):
        options = dict(options)
        classes = shape[1]
        logits = (2 * rng.standard_normal(shape)).astype(dtype)
        target = rng.integers(0, classes, (shape[0], *shape[2:]))
        target.flat[0] = 0
        if options.get("probabilities"):
            target = rng.uniform(size=shape).astype(dtype)
        given = {k: v for k, v in options.items() if k != "probabilities"}
        given["reduction"] = reduction
        if options.get("weight"):
            given["weight"] = rng.uniform(0.5, 2.0, classes).astype(dtype)
        last = target if target.dtype.kind != "f" else np.moveaxis(target, 1, -1)
        expected, gradient = soft_reference(
            np.moveaxis(logits, 1, -1), last, given.get("weight"), reduction,
            given.get("ignore_index", -100), given.get("label_smoothing", 0.0),
        )  # fmt: skip
        gradient = np.moveaxis(gradient, -1, 1)
        for layout in ("contiguous", "fortran", "strided", "negative"):
            x = with_layout(logits, layout)
            t = with_layout(target, layout) if layout != "negative" else target
            depth = 8 + classes
            assert_close(kernels.cross_entropy(x, t, **given), expected, depth, kind="composed")
            loss, dlogits = kernels.cross_entropy_with_grad(x, t, **given)
            assert_close(loss, expected, depth, kind="composed")
            assert_close(dlogits, gradient, depth, kind="composed")
            loss, same = kernels.cross_entropy_with_grad(x, t, out=x, **given)
            assert same is x
            assert_close(same, gradient, depth, kind="composed")


def test_ignored_rows_of_every_kind(level, dtype, rng):
    logits = rng.standard_normal((6, 5)).astype(dtype)
    labels = np.array([0, -100, 4, 1, -100, 2])
    kept = labels != -100
    logits[1] = np.nan
    weight = rng.uniform(1, 2, 5).astype(dtype)
    for order in (logits, np.asfortranarray(logits)):
        for options in ({"weight": weight}, {"label_smoothing": 0.2, "weight": weight}):
            loss, dlogits = kernels.cross_entropy_with_grad(order, labels, **options)
            want, gradient = kernels.cross_entropy_with_grad(logits[kept], labels[kept], **options)
            assert_close(loss, want, 20, kind="composed")
            assert_close(dlogits[kept], gradient, 20, kind="composed")
            assert not dlogits[~kept].any()
        loss, dlogits = kernels.nll_loss_with_grad(order, labels, weight=weight)
        chosen = logits[kept, labels[kept]] * weight[labels[kept]]
        total = weight[labels[kept]].sum()
        assert_close(loss, -chosen.astype(np.float64).sum() / total, 20)
        want = np.zeros((6, 5))
        want[kept, labels[kept]] = -weight[labels[kept]] / total
        assert_close(dlogits, want, 20)


@pytest.mark.parametrize("classes", [2048, 2049, 6001])
def test_rows_of_several_pieces(classes, level, dtype, rng):
    logits = rng.standard_normal((5, classes)).astype(dtype)
    logits[0] += np.linspace(0, 200, classes)  # the label's piece has another base than the row
    logits[1] -= np.linspace(0, 200, classes)
    labels = np.array([1, classes - 1, 7, -100, classes // 2])
    weight = rng.uniform(0.5, 2, classes).astype(dtype)
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(1, keepdims=True))
    log_sum = np.log(powers.sum(1)) + wide.max(1)
    kept = labels >= 0
    factors = np.where(kept, weight[labels], 0).astype(np.float64)
    want = np.where(kept, factors * (log_sum - wide[np.arange(5), labels]), 0)
    gradient = powers / powers.sum(1, keepdims=True)
    gradient[np.arange(5)[kept], labels[kept]] -= 1
    gradient *= factors[:, None]
    how = {"weight": weight, "reduction": "none"}
    assert_close(kernels.cross_entropy(logits, labels, **how), want, 8)
    for out in (None, logits.copy()):
        source = logits if out is None else out
        losses, dlogits = kernels.cross_entropy_with_grad(source, labels, out=out, **how)
        assert_close(losses, want, 8)
        assert_close(dlogits, gradient, 16, scale=2)
    assert_same_bits(lambda: kernels.cross_entropy_with_grad(logits, labels, **how)[1])


@pytest.mark.parametrize("classes", [1003, 4500])
def test_gradients_larger_than_the_caches(level, classes, rng):
    rows = 13_000_000 // (4 * classes)
    logits = rng.standard_normal((rows, classes), dtype=np.float32)
    labels = rng.integers(0, classes, rows)
    labels[3] = -100
    losses, dlogits = kernels.cross_entropy_with_grad(logits, labels, reduction="none")
    for part in (slice(0, 40), slice(rows - 40, rows)):
        want, gradient = kernels.cross_entropy_with_grad(
            logits[part], labels[part], reduction="none"
        )
        assert_close(losses[part], want, 4)
        assert_close(dlogits[part], gradient, 8)


def test_options_out_of_range(dtype):
    logits, labels = np.ones((3, 4), dtype), np.zeros(3, np.int64)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
        kernels.cross_entropy(logits, labels, label_smoothing=1.5)
    with pytest.raises(hl.ShapeError, match=r"weight must have shape \(4,\), got \(3,\)"):
        kernels.cross_entropy(logits, labels, weight=np.ones(3, dtype))
    other = np.float64 if dtype == np.float32 else np.float32
    with pytest.raises(hl.DTypeError, match="weight"):
        kernels.nll_loss(logits, labels, weight=np.ones(4, other))
    with pytest.raises(hl.ShapeError, match=r"labels must have shape \(3, 4\)"):
        kernels.cross_entropy(logits, np.ones((3, 5), dtype))
    with pytest.raises(hl.DTypeError, match="labels must be int64 or int32"):
        kernels.nll_loss(logits, logits)


# ---- losses of pairs of elements ---------------------------------------------------------------


def pair_reference(name, x, t, options):
    """(losses, slopes) in float64."""
    x, t = x.astype(np.float64), t.astype(np.float64)
    d = x - t
    if name == "l1_loss":
        return np.abs(d), np.sign(d)
    if name == "huber_loss":
        a = options["delta"]
        near = np.abs(d) <= a
        return np.where(near, d * d / 2, a * (np.abs(d) - a / 2)), np.clip(d, -a, a)
    if name == "smooth_l1_loss":
        b = options["beta"]
        near = np.abs(d) < b
        safe = b or 1.0
        return (
            np.where(near, d * d / 2 / safe, np.abs(d) - b / 2),
            np.where(near, d / safe, np.sign(d)),
        )
    if name == "binary_cross_entropy":
        return -(t * np.log(x) + (1 - t) * np.log1p(-x)), d / (x * (1 - x))
    if name == "binary_cross_entropy_with_logits":
        p = options.get("pos_weight", 1.0)
        p = np.asarray(p, np.float64)
        sigmoid = 1 / (1 + np.exp(-x))
        soft = np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0)
        return (1 - t) * x + (1 + (p - 1) * t) * soft, (p * t + 1 - t) * sigmoid - p * t
    if name == "hinge_embedding_loss":
        gap = options["margin"] - x
        return (
            np.where(t == 1, x, np.maximum(gap, 0)),
            np.where(t == 1, 1.0, -(gap >= 0).astype(float)),
        )
    if options.get("log_target"):
        return np.exp(t) * (t - x), -np.exp(t)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(t == 0, 0, t * np.log(t)) - t * x, -t


PAIRS = [
    ("l1_loss", {}),
    ("huber_loss", {"delta": 0.7}),
    ("smooth_l1_loss", {"beta": 0.5}),
    ("smooth_l1_loss", {"beta": 0.0}),
    ("binary_cross_entropy", {}),
    ("binary_cross_entropy", {"weight": True}),
    ("binary_cross_entropy_with_logits", {}),
    ("binary_cross_entropy_with_logits", {"weight": True, "pos_weight": True}),
    ("hinge_embedding_loss", {"margin": 0.6}),
    ("kl_div", {}),
    ("kl_div", {"log_target": True}),
]


def pair_inputs(name, options, shape, dtype, rng):
    x, t = rng.standard_normal(shape), rng.standard_normal(shape)
    if name == "binary_cross_entropy":
        x = rng.uniform(0.05, 0.95, shape)
    if name.startswith("binary"):
        t = rng.uniform(0, 1, shape)
    if name == "hinge_embedding_loss":
        t = rng.choice([-1.0, 1.0], shape)
    if name == "kl_div" and not options.get("log_target"):
        t = rng.uniform(0, 1, shape) * rng.integers(0, 2, shape)
    return np.asarray(x, dtype), np.asarray(t, dtype)


@pytest.mark.parametrize(("name", "options"), PAIRS, ids=lambda v: v if isinstance(v, str) else "")
def test_pair_losses(name, options, level, dtype, rng):
    kernel, with_grad = getattr(kernels, name), getattr(kernels, f"{name}_with_grad")
    shapes = [(size,) for size in EDGE_SIZES[1:]] + [(), (3, 5), (2, 3, 4), (7, 601)]
    for shape in shapes:
        x, t = pair_inputs(name, options, shape, dtype, rng)
        given = dict(options)
        for key in ("weight", "pos_weight"):
            if key in given:  # broadcasts from the last axis
                given[key] = rng.uniform(0.5, 2, shape[-1:]).astype(dtype)
        losses, slopes = pair_reference(name, x, t, given)
        factor = given.get("weight", np.ones((), dtype)).astype(np.float64)
        losses, slopes = losses * factor, slopes * factor
        for reduction in ("mean", "sum", "none"):
            scale = 1 / x.size if reduction == "mean" else 1.0
            want = losses if reduction == "none" else losses.sum() * scale
            size = max(1.0, float(np.abs(losses).max()))
            size *= x.size * scale if reduction != "none" else 1.0
            loss = kernel(x, t, reduction=reduction, **given)
            assert_close(loss, want, 16, kind="function", scale=size)
            again, dx = with_grad(x, t, reduction=reduction, **given)
            assert_same(again, loss)
            assert_close(dx, slopes * scale, 16, kind="function", scale=scale * 30)
        for layout in ("fortran", "strided", "negative"):
            there = with_layout(x, layout)
            loss, dx = with_grad(there, with_layout(t, layout), reduction="sum", out=there, **given)
            assert dx is there
            assert_same(loss, kernel(x, t, reduction="sum", **given))
            assert_close(dx, slopes, 16, kind="function", scale=30)


def test_pair_losses_of_special_values(level, dtype):
    x = np.array([1e4, -1e4, 1e4, -1e4, 0.0], dtype)
    t = np.array([1, 0, 0, 1, 0.5], dtype)
    loss, dx = kernels.binary_cross_entropy_with_logits_with_grad(x, t, reduction="none")
    assert_close(loss, [0, 0, 1e4, 1e4, np.log(2)], 4)
    assert_close(dx, [0, 0, 1, -1, 0], 4)
    x, t = np.array([0.0, 1.0, 0.0, 1.0], dtype), np.array([0.0, 1.0, 1.0, 0.0], dtype)
    loss = kernels.binary_cross_entropy(x, t, reduction="none")
    assert_close(loss, [0, 0, 100, 100], 4)
    for name in ("l1_loss", "huber_loss", "smooth_l1_loss", "mse_loss"):
        x = np.array([np.nan, 1.0, np.inf], dtype)
        loss, dx = getattr(kernels, f"{name}_with_grad")(x, np.ones(3, dtype), reduction="none")
        assert np.isnan(loss[0])
        assert np.isnan(dx[0])
        assert loss[1] == dx[1] == 0
        assert np.isposinf(loss[2])


def test_pair_loss_gradients_and_threads(rng):
    for name, options in PAIRS:
        kernel, with_grad = getattr(kernels, name), getattr(kernels, f"{name}_with_grad")
        x, t = pair_inputs(name, options, (4, 3), np.float64, rng)
        if name in ("l1_loss", "smooth_l1_loss", "huber_loss", "hinge_embedding_loss"):
            continue  # their kinks; slopes are compared above
        given = dict(options)
        for key in ("weight", "pos_weight"):
            if key in given:
                given[key] = rng.uniform(0.5, 2, 3)
        _, dx = with_grad(x, t, **given)
        assert_gradient(dx, lambda k=kernel, a=x, b=t, g=given: k(a, b, **g), x, name=name)
    x, t = rng.uniform(0.1, 0.9, (2, 300_001)).astype(np.float32)
    assert_same_bits(lambda: kernels.binary_cross_entropy_with_logits_with_grad(x, t))
    wide = rng.standard_normal((700, 331)).astype(np.float32)
    shares = rng.uniform(size=wide.shape).astype(np.float32)
    assert_same_bits(lambda: kernels.cross_entropy_with_grad(wide, shares, label_smoothing=0.1))


def test_pair_loss_errors(dtype):
    x = np.full((2, 3), 0.5, dtype)
    with pytest.raises(hl.ShapeError, match=r"l1_loss: x and target .* \(2, 3\) and \(3,\)"):
        kernels.l1_loss(x, x[0])
    with pytest.raises(hl.ShapeError, match=r"weight must broadcast to the shape of x \(2, 3\)"):
        kernels.binary_cross_entropy(x, x, weight=np.ones(2, dtype))
    with pytest.raises(ValueError, match=r"kl_div: reduction must be .*batchmean"):
        kernels.kl_div(x, x, reduction="average")
    with pytest.raises(ValueError, match="huber_loss: reduction must be"):
        kernels.huber_loss(x, x, reduction="batchmean")
    assert_close(kernels.kl_div(x, x, reduction="batchmean"), 0.5 * (np.log(0.5) - 0.5) * 3, 8)
