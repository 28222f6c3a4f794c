"""batch, instance, group, layer and RMS norm, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import kernels
from reference import (
    LAYOUTS,
    assert_close,
    assert_gradient,
    assert_same,
    assert_same_bits,
    empty_with_layout,
    with_layout,
)

# Channels around the lanes and blocks of every level; positions around one vector and one chunk.
IMAGES = (
    (4, 5), (9, 64), (2, 3, 1), (3, 17, 5), (2, 16, 4, 4), (3, 33, 3, 5), (2, 65, 7, 1),
    (1, 300, 2, 3), (2, 4, 3, 2, 5), (70, 1, 9), (2, 2, 129, 131), (6, 8, 1, 1),
)  # fmt: skip
KINDS = ("batch", "instance", "group")


def channels_last(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def per_channel(v, x):
    return v.reshape(-1, *(1,) * (x.ndim - 2))


def blocks(x, groups):
    """x as (sets, statistics, elements): what shares mean and variance lies along the last axis."""
    if groups is None:
        return np.moveaxis(x, 1, 0).reshape(1, x.shape[1], -1)
    return x.reshape(x.shape[0], groups, -1)


def unblocked(v, x, groups):
    if groups is None:
        return np.moveaxis(v.reshape(x.shape[1], x.shape[0], *x.shape[2:]), 0, 1)
    return v.reshape(x.shape)


def reference(x, weight, bias, groups, eps=1e-5):
    """y, mean and rstd; groups None: over the batch."""
    rows = blocks(x.astype(np.float64), groups)
    mean, var = rows.mean(-1, keepdims=True), rows.var(-1, keepdims=True)
    rstd = 1 / np.sqrt(var + eps)
    y = unblocked((rows - mean) * rstd, x, groups)
    y = y * per_channel(weight.astype(np.float64), x) + per_channel(bias.astype(np.float64), x)
    return y, mean[..., 0], rstd[..., 0]


def backward_reference(dy, x, weight, groups, eps=1e-5):
    dy, x = dy.astype(np.float64), x.astype(np.float64)
    rows = blocks(x, groups)
    rstd = 1 / np.sqrt(rows.var(-1, keepdims=True) + eps)
    hat = (rows - rows.mean(-1, keepdims=True)) * rstd
    g = blocks(dy * per_channel(weight.astype(np.float64), x), groups)
    dx = rstd * (g - g.mean(-1, keepdims=True) - hat * (g * hat).mean(-1, keepdims=True))
    others = tuple(axis for axis in range(x.ndim) if axis != 1)
    dweight = (dy * unblocked(hat, x, groups)).sum(others)
    return unblocked(dx, x, groups), dweight, dy.sum(others)


def groups_of(kind, x):
    if kind == "batch":
        return None
    c = x.shape[1]
    return c if kind == "instance" else next(g for g in (4, 3, 2, 1) if c % g == 0)


def forward(kind, x, weight=None, bias=None, groups=None, **options):
    if kind == "batch":
        return kernels.batch_norm(x, weight, bias, training=True, **options)
    if kind == "instance":
        return kernels.instance_norm(x, weight, bias, **options)
    return kernels.group_norm(x, groups or groups_of(kind, x), weight, bias, **options)


def backward(kind, dy, x, weight, mean, rstd, groups=None, **options):
    if kind == "group":
        groups = groups or groups_of(kind, x)
        return kernels.group_norm_backward(dy, x, groups, weight, mean, rstd, **options)
    function = getattr(kernels, f"{kind}_norm_backward")
    return function(dy, x, weight, mean, rstd, **options)


def data(shape, dtype, rng):
    x = (rng.standard_normal(shape) * 2 + 3).astype(dtype)
    dy = rng.standard_normal(shape).astype(dtype)
    weight, bias = (rng.uniform(-2, 2, shape[1]).astype(dtype) for _ in range(2))
    return x, dy, weight, bias


def usable(kind, shape):
    values = int(np.prod(shape[2:])) * (shape[0] if kind == "batch" else 1)
    return values > 1 if kind != "group" else values * shape[1] > 4


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind, level, dtype, rng):
    for shape in IMAGES:
        if not usable(kind, shape):
            continue
        x, dy, weight, bias = data(shape, dtype, rng)
        groups = groups_of(kind, x)
        y, mean, rstd = reference(x, weight, bias, groups)
        grads = backward_reference(dy, x, weight, groups)
        terms = x.size // mean.size
        for held, dy_held in ((x, dy), (channels_last(x), channels_last(dy))):
            got, got_mean, got_rstd = forward(kind, held, weight, bias, return_stats=True)
            assert got_mean.shape == (mean.shape if kind != "batch" else mean.shape[1:])
            scale = float(rstd.max()) * 16  # x - mean rounds like x, then grows by rstd
            assert_close(got, y, kind="composed", scale=scale, name=f"y {shape}")
            assert_close(got_mean.reshape(mean.shape), mean, 8, scale=8.0, name="mean")
            assert_close(
                got_rstd.reshape(rstd.shape), rstd, kind="composed", scale=4 * rstd.max() ** 3
            )
            results = backward(kind, dy_held, held, weight, got_mean, got_rstd)
            for name, one, expected, factor in zip(
                ("dx", "dweight", "dbias"), results, grads, (rstd.max() ** 2, terms**0.5, 1.0)
            ):
                scale = max(1.0, float(np.abs(expected).max())) * max(1.0, float(factor)) * scale
                assert_close(one, expected, kind="composed", scale=scale, name=f"{name} {shape}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mean_far_from_zero_costs_no_accuracy(kind, level, rng):
    x, _, weight, bias = data((4, 20, 40, 33), np.float32, rng)
    x = x + np.float32(1000)  # E[x^2] - mean^2 would have no digit left
    groups = groups_of(kind, x)
    y, _, rstd = reference(x, weight, bias, groups)
    for held in (x, channels_last(x)):
        got, _, got_rstd = forward(kind, held, weight, bias, return_stats=True)
        np.testing.assert_allclose(got_rstd.reshape(rstd.shape), rstd, rtol=1e-5)
        np.testing.assert_allclose(got, y, atol=5e-4)


@pytest.mark.parametrize("memory", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_memory_layouts(kind, memory, dtype, rng):
    x, dy, weight, bias = data((3, 12, 5, 4), dtype, rng)
    groups = groups_of(kind, x)
    y, _, _ = reference(x, weight, bias, groups)
    dx, dweight, dbias = backward_reference(dy, x, weight, groups)
    groups_as = {"groups": groups} if kind == "group" else {}
    for layout in ("NCHW", "NHWC"):

        def named(a, layout=layout):
            return a if layout == "NCHW" else np.moveaxis(a, 1, -1)

        x_held = with_layout(np.ascontiguousarray(named(x)), memory)
        options = {"layout": layout, "return_stats": True}
        w_held = with_layout(weight, memory)
        out = empty_with_layout(x_held.shape, dtype, memory)
        got, mean, rstd = forward(kind, x_held, w_held, bias, **groups_as, out=out, **options)
        assert got is out
        assert_close(got, named(y), kind="composed", scale=16.0)
        fresh, *_ = forward(kind, x_held, w_held, bias, **groups_as, **options)
        assert_close(fresh, named(y), kind="composed", scale=16.0)
        for dy_held in (named(dy), np.asfortranarray(named(dy))):
            got, dw, db = backward(
                kind, dy_held, x_held, w_held, mean, rstd, **groups_as, layout=layout, out=out
            )
            assert got is out
            assert_close(got, named(dx), kind="composed", scale=16.0)
            assert_close(dw, dweight, kind="composed", scale=64.0)
            assert_close(db, dbias, kind="composed", scale=64.0)


def test_results_keep_the_memory_order(dtype, rng):
    x, dy, weight, bias = data((2, 6, 4, 5), dtype, rng)
    for kind in KINDS:
        for held in (x, channels_last(x)):
            y, mean, rstd = forward(kind, held, weight, bias, return_stats=True)
            dx, _, _ = backward(kind, dy, held, weight, mean, rstd)
            assert y.strides == dx.strides == held.strides


@pytest.mark.parametrize("shape", [(6, 5), (3, 65, 7), (4, 130, 9, 5), (2, 300, 40, 3)], ids=str)
def test_the_gradient_through_a_relu_in_one_pass(level, dtype, shape, rng):
    """As of two kernels: the same bits but for the sign of NaN, whatever the memory."""
    x, dy, weight, bias = data(shape, dtype, rng)
    x[0, 1], x[0, 2, ...] = np.nan, np.inf
    for affine, training in (((weight, bias), True), ((weight, None), True), ((None, None), False)):
        for turned in (channels_last, np.ascontiguousarray):
            xh, dyh = turned(x), turned(dy)
            running = () if training else (np.zeros_like(bias), np.ones_like(bias))
            y, mean, rstd = kernels.batch_norm(
                xh, *affine, *running, training=training, activation="relu", return_stats=True
            )
            given = (xh, affine[0], mean, rstd)
            expected = kernels.batch_norm_backward(
                kernels.relu_backward(dyh, y), *given, training=training
            )
            how = {"training": training, "activation": "relu", "bias": affine[1]}
            in_place = dyh.copy(order="K")
            strided = empty_with_layout(shape, dtype, "strided")
            for dy_held, out in ((dyh, None), (in_place, in_place), (dyh, strided)):
                found = kernels.batch_norm_backward(dy_held, *given, **how, out=out)
                for one, other in zip(found, expected):
                    assert_same(*(np.where(np.isnan(v), dtype(np.nan), v) for v in (one, other)))


def test_backward_takes_relu_alone(rng):
    x, dy, weight, bias = data((4, 3), np.float32, rng)
    _, mean, rstd = kernels.batch_norm(x, weight, bias, training=True, return_stats=True)
    with pytest.raises(ValueError, match=r"activation must be None, or .*got 'tanh'"):
        kernels.batch_norm_backward(dy, x, weight, mean, rstd, activation="tanh")
    with pytest.raises(ValueError, match="bias"):
        kernels.batch_norm_backward(
            dy, x, weight, mean, rstd, activation="relu", bias=np.zeros(4, np.float32)
        )


def test_running_statistics(level, dtype, rng):
    for shape in ((8, 6), (4, 6, 5), (3, 6, 4, 5)):
        x, dy, weight, bias = data(shape, dtype, rng)
        means, variances = (rng.uniform(0.5, 2, 6).astype(dtype) for _ in range(2))
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        found = x.astype(np.float64).mean(axes), x.astype(np.float64).var(axes, ddof=1)
        running = means.copy(), variances.copy()
        kernels.batch_norm(x, weight, bias, *running, training=True, momentum=0.3)
        for one, before, fresh in zip(running, (means, variances), found):
            assert_close(one, 0.7 * before + 0.3 * fresh, 8, scale=8.0)
        y, mean, rstd = kernels.batch_norm(
            x, weight, bias, means, variances, eps=1e-3, return_stats=True
        )
        assert_same(mean, means)
        expected = 1 / np.sqrt(variances.astype(np.float64) + 1e-3)
        assert_close(rstd, expected, 2)
        hat = (x - per_channel(means, x)) * per_channel(expected, x)
        assert_close(
            y, hat * per_channel(weight, x) + per_channel(bias, x), kind="composed", scale=8.0
        )
        dx, dweight, dbias = kernels.batch_norm_backward(dy, x, weight, mean, rstd, training=False)
        assert_close(dx, dy * per_channel(weight * expected, x), 4)
        assert_close(dweight, (dy * hat).sum(axes), kind="composed", scale=8.0)
        assert_close(dbias, dy.astype(np.float64).sum(axes), 64)
        if x.ndim == 2:
            continue
        inner = axes[1:]
        running = means.copy(), variances.copy()
        kernels.instance_norm(x, weight, bias, *running, momentum=0.3)
        found = x.astype(np.float64).mean(inner), x.astype(np.float64).var(inner, ddof=1)
        for one, before, fresh in zip(running, (means, variances), found):
            assert_close(one, 0.7 * before + 0.3 * fresh.mean(0), 8, scale=8.0)


@pytest.mark.parametrize("kind", KINDS)
def test_options(kind, level, dtype, rng):
    x, _, weight, bias = data((2, 20, 5, 7), dtype, rng)
    residual = rng.standard_normal(x.shape).astype(dtype)
    for held in (x, channels_last(x)):
        plain = forward(kind, held, weight, bias)
        for name in ("relu", "gelu", "leaky_relu"):
            both = forward(kind, held, weight, bias, residual=residual, activation=name)
            assert_close(both, getattr(kernels, name)(plain + residual), 4, scale=8.0)
        added = forward(kind, held, weight, bias, residual=residual)
        assert_close(added, plain + residual, 2, scale=16.0)
        ones = forward(kind, held, np.ones(20, dtype), np.zeros(20, dtype))
        assert_same(np.ascontiguousarray(forward(kind, held)), np.ascontiguousarray(ones))
        # In place, over x and over the residual.
        copy = np.copy(held, order="K")
        assert forward(kind, copy, weight, bias, out=copy) is copy
        assert_same(np.ascontiguousarray(copy), np.ascontiguousarray(plain))
        copy = np.copy(residual)
        assert forward(kind, held, weight, bias, residual=copy, out=copy) is copy
        assert_same(np.ascontiguousarray(copy), np.ascontiguousarray(added))


@pytest.mark.parametrize("kind", KINDS)
def test_backward_in_place(kind, dtype, rng):
    x, dy, weight, bias = data((2, 20, 5, 7), dtype, rng)
    _, mean, rstd = forward(kind, x, weight, bias, return_stats=True)
    expected = backward(kind, dy, x, weight, mean, rstd)
    for over_x in (True, False):
        x_copy, dy_copy = x.copy(), dy.copy()
        out = x_copy if over_x else dy_copy
        got = backward(kind, dy_copy, x_copy, weight, mean, rstd, out=out)
        assert got[0] is out
        for one, other in zip(got, expected):
            assert_same(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_same_bits_for_any_number_of_threads(kind, rng):
    for shape in ((5, 24, 33, 35), (900, 70), (2, 6, 300, 130)):
        if not usable(kind, shape):
            continue
        x, dy, weight, bias = data(shape, np.float32, rng)
        for held in (x, channels_last(x)):
            _, mean, rstd = forward(kind, held, weight, bias, return_stats=True)
            assert_same_bits(lambda: forward(kind, held, weight, bias, return_stats=True))  # noqa: B023
            assert_same_bits(lambda: backward(kind, dy, held, weight, mean, rstd))  # noqa: B023


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, level, rng):
    x, dy, weight, bias = data((3, 4, 2, 3), np.float64, rng)
    for held in (x, channels_last(x)):
        _, mean, rstd = forward(kind, held, weight, bias, return_stats=True)
        dx, dweight, dbias = backward(kind, dy, held, weight, mean, rstd)
        call = lambda: forward(kind, held, weight, bias)  # noqa: B023, E731
        assert_gradient(dx, call, held, dy, name="dx")
        assert_gradient(dweight, call, weight, dy, name="dweight")
        assert_gradient(dbias, call, bias, dy, name="dbias")


def test_nan_and_infinity_stay_in_their_channel(level, dtype):
    x = np.random.default_rng(3).standard_normal((2, 3, 4, 5)).astype(dtype)
    x[0, 0, 0, 0] = np.nan
    x[1, 1, 2, 2] = np.inf
    for held in (x, channels_last(x)):
        y = kernels.batch_norm(held, training=True)
        assert np.isnan(y[:, 0]).all()
        assert np.isnan(y[:, 1]).any()
        assert np.isfinite(y[:, 2]).all()
        y = kernels.instance_norm(held)
        assert np.isfinite(y[1, 0]).all()


# ---- rows ------------------------------------------------------------------------------------

ROWS = ((1, 1), (3, 2), (5, 15), (2, 16), (7, 17), (4, 63), (9, 64), (33, 65), (2, 1000))


def row_reference(x, weight, bias, rms, eps):
    x = x.astype(np.float64)
    mean = 0.0 if rms else x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps)
    return (x - mean) * rstd * weight + (0.0 if rms else bias), mean, rstd


def row_gradients(dy, x, weight, rms, eps):
    dy = dy.astype(np.float64)
    _, mean, rstd = row_reference(x, 1.0, 0.0, rms, eps)
    hat = (x.astype(np.float64) - mean) * rstd
    g = dy * weight
    first = 0.0 if rms else g.mean(-1, keepdims=True)
    dx = rstd * (g - first - hat * (g * hat).mean(-1, keepdims=True))
    rows = tuple(range(x.ndim - 1))
    return dx, (dy * hat).sum(rows), dy.sum(rows)


def row_forward(rms, x, weight, bias, eps, **options):
    if rms:
        result = kernels.rms_norm(
            x, x.shape[-1:], weight, eps=eps, return_stats=True, **options
        )  # fmt: skip
        return (*result[:-1], None, result[-1])
    return kernels.layer_norm(x, x.shape[-1:], weight, bias, eps=eps, return_stats=True, **options)


def row_backward(rms, dy, x, weight, mean, rstd, **options):
    if rms:
        return kernels.rms_norm_backward(dy, x, weight, rstd, **options)
    return kernels.layer_norm_backward(dy, x, weight, mean, rstd, **options)


@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
def test_rows(rms, level, dtype, rng):
    eps = 1e-3
    for rows, n in (*ROWS, (6, 9000)):
        x, dy = (rng.standard_normal((rows, n)).astype(dtype) + dtype(i) for i in (1, 0))
        weight, bias = (rng.uniform(-2, 2, n).astype(dtype) for _ in range(2))
        expected, _, rstd = row_reference(x, weight, bias, rms, eps)
        y, got_mean, got_rstd = row_forward(rms, x, weight, bias, eps)
        scale = 8.0 * max(1.0, float(rstd.max()))
        assert_close(y, expected, kind="composed", scale=scale, name=f"y {rows}x{n}")
        assert got_rstd.shape == (rows,)
        assert_close(
            got_rstd, rstd[:, 0], kind="composed", scale=4 * max(1.0, float(rstd.max())) ** 3
        )
        grads = row_backward(rms, dy, x, weight, got_mean, got_rstd)
        wanted = row_gradients(dy, x, weight, rms, eps)
        for one, other in zip(grads, wanted):
            size = scale * scale * max(1.0, float(np.abs(other).max()))
            assert_close(one, other, kind="composed", scale=size, name=f"gradient {rows}x{n}")


@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
@pytest.mark.parametrize("memory", LAYOUTS)
def test_rows_in_every_memory_layout(rms, memory, dtype, rng):
    x, dy, residual = (rng.standard_normal((3, 4, 21)).astype(dtype) for _ in range(3))
    weight, bias = (rng.uniform(-2, 2, 21).astype(dtype) for _ in range(2))
    y, mean, rstd = row_forward(rms, x, weight, bias, 1e-3)
    grads = row_backward(rms, dy, x, weight, mean, rstd)
    held, dy_held, weight_held = (with_layout(a, memory) for a in (x, dy, weight))
    out = empty_with_layout(x.shape, dtype, memory)
    got, *stats = row_forward(rms, held, weight_held, bias, 1e-3, out=out)
    assert got is out
    assert_same(np.ascontiguousarray(got), y)
    got = row_backward(rms, dy_held, held, weight_held, *stats, out=out)
    assert got[0] is out
    for one, other in zip(got, grads):
        assert_same(np.ascontiguousarray(one), other)
    total = x + residual
    y, *_ = row_forward(rms, total, weight, bias, 1e-3)
    got, h, *_ = row_forward(rms, held, weight, bias, 1e-3, residual=with_layout(residual, memory))
    assert_same(h, total)
    assert_same(got, y)


@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
def test_row_options(rms, level, dtype, rng):
    x, dy = (rng.standard_normal((5, 37)).astype(dtype) for _ in range(2))
    weight = rng.uniform(-2, 2, 37).astype(dtype)
    y, mean, rstd = row_forward(rms, x, weight, None, 1e-3)
    for name in ("relu", "gelu"):
        got, *_ = row_forward(rms, x, weight, None, 1e-3, activation=name)
        assert_close(got, getattr(kernels, name)(y), 4)
    plain, *_ = row_forward(rms, x, None, None, 1e-3)
    assert_close(plain * weight, y, 4, scale=16.0)
    expected = row_backward(rms, dy, x, None, mean, rstd)
    for over_x in (True, False):
        x_copy, dy_copy = x.copy(), dy.copy()
        out = x_copy if over_x else dy_copy
        got = row_backward(rms, dy_copy, x_copy, None, mean, rstd, out=out)
        assert got[0] is out
        for one, other in zip(got, expected):
            assert_same(one, other)
    copy = x.copy()
    row_forward(rms, copy, weight, None, 1e-3, out=copy)
    assert_same(copy, y)


@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
def test_rows_same_bits_for_any_number_of_threads(rms, rng):
    x, dy = (rng.standard_normal((1003, 130)).astype(np.float32) for _ in range(2))
    weight, bias = (rng.uniform(-2, 2, 130).astype(np.float32) for _ in range(2))
    _, mean, rstd = row_forward(rms, x, weight, bias, 1e-5)
    assert_same_bits(lambda: row_forward(rms, x, weight, bias, 1e-5)[0])
    assert_same_bits(lambda: row_backward(rms, dy, x, weight, mean, rstd))


@pytest.mark.parametrize("rms", [False, True])
def test_a_row_does_not_depend_on_its_neighbours(rms, level, dtype, rng):
    for n in (1, 15, 16, 17, 100, 1024):
        x = rng.standard_normal((5, n)).astype(dtype)
        w, b = (rng.standard_normal(n).astype(dtype) for _ in "wb")
        for first in range(3):
            if rms:
                whole = kernels.rms_norm(x, (n,), w)[first:]
                part = kernels.rms_norm(x[first:], (n,), w)
            else:
                whole = kernels.layer_norm(x, (n,), w, b)[first:]
                part = kernels.layer_norm(x[first:], (n,), w, b)
            np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
def test_row_gradients(rms, level, rng):
    x, dy = (rng.standard_normal((6, 11)) for _ in range(2))
    weight, bias = (rng.uniform(-2, 2, 11) for _ in range(2))
    _, mean, rstd = row_forward(rms, x, weight, bias, 1e-3)
    grads = row_backward(rms, dy, x, weight, mean, rstd)
    call = lambda: row_forward(rms, x, weight, bias, 1e-3)[0]  # noqa: E731
    for one, variable in zip(grads, (x, weight, bias)):
        assert_gradient(one, call, variable, dy)


def test_rows_over_several_axes(dtype, rng):
    x = rng.standard_normal((3, 4, 5, 6)).astype(dtype)
    weight = rng.standard_normal((5, 6)).astype(dtype)
    y, mean, rstd = kernels.layer_norm(x, (5, 6), weight, return_stats=True)
    flat, *_ = kernels.layer_norm(x.reshape(12, 30), (30,), weight.ravel(), return_stats=True)
    assert_same(y, flat.reshape(x.shape))
    assert mean.shape == rstd.shape == (3, 4)
    _, dweight, dbias = kernels.layer_norm_backward(x, x, weight, mean, rstd)
    assert dweight.shape == dbias.shape == (5, 6)


def test_rms_norm_adds_the_machine_epsilon(dtype):
    x = np.full((1, 4), 1e-3, dtype)
    y = kernels.rms_norm(x, (4,))
    assert_close(y, x / np.sqrt(1e-6 + np.finfo(dtype).eps), 8)


def test_nothing_to_normalize(dtype):
    empty = np.ones((0, 3, 4), dtype)
    assert kernels.layer_norm(empty, (4,)).shape == (0, 3, 4)
    for function in (kernels.instance_norm, lambda x: kernels.group_norm(x, 3)):
        assert function(empty).shape == (0, 3, 4)
    mean, var = np.zeros(3, dtype), np.ones(3, dtype)
    assert kernels.batch_norm(empty, None, None, mean, var).shape == (0, 3, 4)
    _, mean, rstd = kernels.layer_norm(empty, (4,), return_stats=True)
    dx, dweight, dbias = kernels.layer_norm_backward(empty, empty, None, mean, rstd)
    assert dx.shape == (0, 3, 4)
    assert_same(dweight, np.zeros(4, dtype))
    assert_same(dbias, np.zeros(4, dtype))
    dx, dweight, dbias = kernels.group_norm_backward(
        empty, empty, 3, None, np.ones((0, 3), dtype), np.ones((0, 3), dtype)
    )
    assert_same(dweight, np.zeros(3, dtype))
    assert_same(dbias, np.zeros(3, dtype))
    assert kernels.layer_norm(np.ones((3, 0), dtype), (0,)).shape == (3, 0)


def test_channel_errors(dtype):
    x = np.ones((2, 3, 4, 4), dtype)
    c = np.ones(3, dtype)
    with pytest.raises(hl.ShapeError, match=r"batch_norm: x must have at least 2 axes"):
        kernels.batch_norm(c, training=True)
    with pytest.raises(hl.ShapeError, match=r"weight must have shape \(3,\), got \(4,\)"):
        kernels.batch_norm(x, np.ones(4, dtype), training=True)
    with pytest.raises(hl.ShapeError, match="more than 1 value per channel, got 1"):
        kernels.batch_norm(x[:1, :, 0, 0], training=True)
    with pytest.raises(hl.ShapeError, match="more than 1 value per channel, got 0"):
        kernels.batch_norm(x[:0], training=True)
    with pytest.raises(hl.ShapeError, match="more than 1 value per channel and sample, got 1"):
        kernels.instance_norm(x[..., :1, :1])
    with pytest.raises(ValueError, match="running_mean and running_var must come together"):
        kernels.batch_norm(x, running_mean=c, training=True)
    with pytest.raises(ValueError, match="running_mean and running_var must be given"):
        kernels.batch_norm(x)
    other = np.float64 if dtype == np.float32 else np.float32
    with pytest.raises(hl.DTypeError, match="same dtype"):
        kernels.batch_norm(x, c.astype(other), training=True)
    with pytest.raises(hl.DTypeError):
        kernels.batch_norm(x.astype(np.int32), training=True)
    with pytest.raises(ValueError, match="layout must be"):
        kernels.batch_norm(x, training=True, layout="CHWN")
    with pytest.raises(ValueError, match="activation must be"):
        kernels.batch_norm(x, training=True, activation="swosh")
    with pytest.raises(ValueError, match="eps must be finite and not negative"):
        kernels.batch_norm(x, training=True, eps=-1.0)
    memory = np.ones((3, 3, 4, 4), dtype)
    with pytest.raises(hl.OutputError, match="overlap"):
        kernels.batch_norm(memory[:2], training=True, out=memory[1:])
    with pytest.raises(hl.ShapeError, match="num_groups must divide the channels, got 2 groups"):
        kernels.group_norm(x, 2)
    with pytest.raises(hl.ShapeError, match="num_groups must divide the channels, got 0 groups"):
        kernels.group_norm(x, 0)
    frozen = c.copy()
    frozen.flags.writeable = False
    with pytest.raises(hl.OutputError, match="running_mean is changed in place"):
        kernels.batch_norm(x, None, None, frozen, c.copy(), training=True)
    with pytest.raises(hl.ShapeError, match=r"mean must have shape \(2, 3\)"):
        kernels.instance_norm_backward(x, x, None, c, c)
    with pytest.raises(hl.ShapeError, match="dy must have shape"):
        kernels.batch_norm_backward(x[:1], x, None, c, c)
    with pytest.raises(ValueError, match="mean and rstd must be those"):
        kernels.batch_norm_backward(x, x, None, None, None)


def test_row_errors(dtype):
    x = np.ones((2, 3, 4), dtype)
    for op in (kernels.layer_norm, kernels.rms_norm):
        with pytest.raises(hl.ShapeError, match=r"normalized_shape must be the last sizes of x"):
            op(x, (3,))
        with pytest.raises(hl.ShapeError, match=r"normalized_shape must be the last sizes of x"):
            op(x, ())
        with pytest.raises(hl.ShapeError, match=r"weight must have shape \(3, 4\), got \(4,\)"):
            op(x, (3, 4), np.ones(4, dtype))
        with pytest.raises(hl.ShapeError, match="residual must have shape"):
            op(x, (4,), residual=x[:1])
        with pytest.raises(hl.DTypeError):
            op(x, 4)
        with pytest.raises(hl.DTypeError):
            op(x.astype(np.int64), (4,))
    rstd = np.ones((2, 3), dtype)
    with pytest.raises(hl.ShapeError, match="rstd must have fewer axes than x"):
        kernels.rms_norm_backward(x, x, None, x)
    with pytest.raises(hl.ShapeError, match="dy must have shape"):
        kernels.layer_norm_backward(x[:1], x, None, rstd, rstd)
    with pytest.raises(ValueError, match="mean must be that of layer_norm"):
        kernels.layer_norm_backward(x, x, None, None, rstd)
