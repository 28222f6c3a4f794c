"""csrc/kernels/cuda/norm.cu and norm_rows.cu on the emulator, against float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

import reference
from cuda_args import (
    SMALL,
    NormArgs,
    NormRunningArgs,
    NormStrides,
    RowNormArgs,
    dtype_code,
    pointer,
    small,
    steps,
)
from emulated import ORDERS, call, kernels, poisoned, thread_order, workspace

RELU, EPS = 1, 1e-5


def scratch_for(family: str, name: str, args: NormArgs | RowNormArgs) -> np.ndarray:
    scratch = poisoned((-(-workspace(kernels(family), name, args) // 8),), np.float64)
    args.scratch = pointer(scratch)
    return scratch


def image_args(x: np.ndarray, sets: int, per_group: int, **arrays) -> NormArgs:
    """Of arrays seen as (n, c, s), whatever their memory order."""
    args = NormArgs(dtype_code(x))
    args.n, args.c, args.s = x.shape
    args.channels_last = steps(x)[1] == 1
    args.sets, args.per_group, args.eps = sets, per_group, EPS
    for name, array in {"x": x, **arrays}.items():
        setattr(args, name, pointer(array))
        if name in ("x", "other", "out") and array is not None:
            n, c, s = steps(array)
            setattr(args, f"{name}_strides", NormStrides(n, s, c))
    return args


def in_order(array: np.ndarray, last: bool) -> np.ndarray:
    """The same (n, c, s) with the channels or the positions innermost."""
    if not last:
        return np.ascontiguousarray(array)
    return np.ascontiguousarray(array.transpose(0, 2, 1)).transpose(0, 2, 1)


def grouped(array: np.ndarray, sets: int, per_group: int) -> np.ndarray:
    """(sets, groups, everything else) in float64."""
    n, c, s = array.shape
    array = array.astype(np.float64).reshape(n, c // per_group, per_group * s)
    if sets == n:
        return array
    return array.transpose(1, 0, 2).reshape(1, c // per_group, -1)


def spread(statistic: np.ndarray, x: np.ndarray, per_group: int) -> np.ndarray:
    """One number of each statistic, for every element of x."""
    channels = np.repeat(statistic, per_group, axis=1)
    return np.broadcast_to(channels[:, :, None], x.shape)


# samples, channels, positions; sets and channels of a group
CASES = [
    ((1, 3, 700), "batch", 1),
    ((4, 40, 33), "batch", 1),
    ((5, 8, 64), "batch", 1),
    ((3, 1, 5), "batch", 1),
    ((2, 12, 36), "sample", 1),
    ((3, 24, 20), "sample", 6),
    ((2, 6, 7), "sample", 6),
]
CASES = [case for case in CASES if small(math.prod(case[0]) // 2)]


@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
@pytest.mark.parametrize(("shape", "kind", "per_group"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_channels(rng, dtype, shape, kind, per_group, last):
    x = in_order((3 + rng.standard_normal(shape)).astype(dtype), last)
    residual = in_order(rng.standard_normal(shape).astype(dtype), last)
    dy = in_order(rng.standard_normal(shape).astype(dtype), last)
    weight, bias = rng.standard_normal((2, shape[1])).astype(dtype)
    sets = 1 if kind == "batch" else shape[0]
    groups = shape[1] // per_group
    wide = grouped(x, sets, per_group)
    mean, variance = wide.mean(-1), wide.var(-1)
    rstd = 1 / np.sqrt(variance + EPS)
    scaled = (x - spread(mean, x, per_group)) * spread(rstd, x, per_group)
    factor = weight.astype(np.float64)[:, None]
    want = np.maximum(scaled * factor + bias[:, None] + residual, 0)
    plain = grouped(dy * factor, sets, per_group).mean(-1)
    product = grouped(dy * factor * scaled, sets, per_group).mean(-1)
    want_dx = dy * factor - spread(plain, x, per_group) - scaled * spread(product, x, per_group)
    want_dx = want_dx * spread(rstd, x, per_group)
    results = []
    for order in ORDERS:
        found = [poisoned((sets, groups), dtype), poisoned((sets, groups), dtype)]
        moments = poisoned((2, sets, groups), np.float64)
        y, dx = (in_order(poisoned(shape, dtype), last) for _ in range(2))
        dweight, dbias = poisoned((shape[1],), dtype), poisoned((shape[1],), dtype)
        args = image_args(x, sets, per_group, other=residual, out=y, weight=weight, bias=bias)
        args.mean, args.rstd = pointer(found[0]), pointer(found[1])
        args.moments, args.activation = pointer(moments), RELU
        back = image_args(x, sets, per_group, other=dy, out=dx, weight=weight)
        back.mean, back.rstd = pointer(found[0]), pointer(found[1])
        back.dweight, back.dbias = pointer(dweight), pointer(dbias)
        with thread_order(kernels("norm"), order):
            _kept = scratch_for("norm", "norm_forward", args)
            call(kernels("norm"), "norm_forward", args, x.size)
            _also = scratch_for("norm", "norm_backward", back)
            call(kernels("norm"), "norm_backward", back, x.size)
        results.append((y, dx, dweight, dbias, *found, moments))
    for others in results[1:]:
        for first, other in zip(results[0], others, strict=True):
            assert first.tobytes() == other.tobytes()
    y, dx, dweight, dbias, found_mean, found_rstd, moments = results[0]
    depth = 16
    reference.assert_close(found_mean, mean, depth)
    reference.assert_close(found_rstd, rstd, depth, kind="composed")
    reference.assert_close(moments[0], mean, depth, dtype=dtype)
    reference.assert_close(moments[1], variance, depth, dtype=dtype, kind="composed")
    reference.assert_close(y, want, depth, kind="composed")
    reference.assert_close(dx, want_dx, depth, kind="composed")
    reference.assert_close(dweight, (dy * scaled).sum((0, 2)), depth, kind="composed")
    reference.assert_close(dbias, dy.astype(np.float64).sum((0, 2)), depth, kind="composed")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics(rng, dtype):
    x = in_order(rng.standard_normal((4, 37, 6)).astype(dtype), True)
    running = rng.uniform(0.5, 2, (2, 74)).astype(dtype)[:, ::2]
    moments = rng.uniform(0.5, 2, (2, 3, 37))
    want = 0.9 * running + 0.1 * moments.mean(1) * np.array([[1.0], [1.25]])
    mean, rstd = poisoned((37,), dtype), poisoned((37,), dtype)
    args = NormRunningArgs(dtype_code(x), 37, 3, pointer(running[0]), pointer(running[1]), 2, 2)
    args.moments, args.momentum, args.factor = pointer(moments), 0.1, 1.25
    args.mean, args.rstd, args.eps = pointer(mean), pointer(rstd), EPS
    call(kernels("norm"), "norm_update", args, 37)
    reference.assert_close(running, want, 4)
    call(kernels("norm"), "norm_settle", args, 37)
    reference.assert_close(mean, want[0], 4)
    reference.assert_close(rstd, 1 / np.sqrt(want[1] + EPS), 8)
    y, dx = (in_order(poisoned(x.shape, dtype), True) for _ in range(2))
    given = image_args(x, 1, 1, out=y, mean=mean, rstd=rstd)
    _kept = scratch_for("norm", "norm_forward", given)
    call(kernels("norm"), "norm_forward", given, x.size)
    scaled = (x - want[0][:, None]) / np.sqrt(want[1] + EPS)[:, None]
    reference.assert_close(y, scaled, 16)
    back = image_args(x, 1, 1, other=x, out=dx, mean=mean, rstd=rstd)
    back.constant = True
    _also = scratch_for("norm", "norm_backward", back)
    call(kernels("norm"), "norm_backward", back, x.size)
    reference.assert_close(dx, x / np.sqrt(want[1] + EPS)[:, None], 16)


@pytest.mark.skipif(SMALL, reason="long")
def test_the_variance_of_far_numbers(rng):
    x = in_order((1e4 + rng.standard_normal((2, 5, 3000))).astype(np.float32), True)
    moments = poisoned((2, 5), np.float64)
    found = poisoned((2, 5), np.float32)
    out = in_order(poisoned(x.shape, np.float32), True)
    args = image_args(x, 1, 1, out=out, mean=found[0], rstd=found[1])
    args.moments = pointer(moments)
    _kept = scratch_for("norm", "norm_forward", args)
    call(kernels("norm"), "norm_forward", args, x.size)
    np.testing.assert_allclose(moments[1], grouped(x, 1, 1).var(-1)[0], rtol=2e-4)


ROWS = [(1, 1), (9, 10), (3, 132), (5, 1024), (2, 1030), (2, 3000), (1, 9001)]
ROWS = [case for case in ROWS if small(math.prod(case))]


@pytest.mark.parametrize(("rows", "n"), ROWS)
@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows(rng, dtype, rms, rows, n):
    x = (1 + rng.standard_normal((rows, n))).astype(dtype)
    residual, dy = rng.standard_normal((2, rows, n)).astype(dtype)
    weight, bias = rng.standard_normal((2, n)).astype(dtype)
    activation = RELU if n in (10, 3000) else 0
    total = (x + residual).astype(np.float64)
    mean = np.zeros((rows, 1)) if rms else total.mean(1, keepdims=True)
    rstd = 1 / np.sqrt(((total - mean) ** 2).mean(1, keepdims=True) + EPS)
    scaled = (total - mean) * rstd
    want = scaled * weight + bias
    if activation:
        want = np.maximum(want, 0)
    g = dy.astype(np.float64) * weight
    plain = 0 if rms else g.mean(1, keepdims=True)
    want_dx = rstd * (g - plain - scaled * (g * scaled).mean(1, keepdims=True))
    results = []
    for order in ORDERS if rows * n < 5000 else ("forward", "random"):
        y, sums, dx = (poisoned((rows, n), dtype) for _ in range(3))
        found = [poisoned((rows,), dtype), poisoned((rows,), dtype)]
        dweight, dbias = poisoned((n,), dtype), poisoned((n,), dtype)
        args = RowNormArgs(dtype_code(x), rms, rows, n, pointer(x), pointer(residual), pointer(y))
        args.x_stride = args.other_stride = args.out_stride = n
        args.total, args.weight, args.bias = pointer(sums), pointer(weight), pointer(bias)
        args.eps, args.activation = EPS, activation
        args.mean, args.rstd = None if rms else pointer(found[0]), pointer(found[1])
        back = RowNormArgs(dtype_code(x), rms, rows, n, pointer(sums), pointer(dy), pointer(dx))
        back.x_stride = back.other_stride = back.out_stride = n
        back.weight, back.mean, back.rstd = pointer(weight), args.mean, args.rstd
        back.dweight, back.dbias = pointer(dweight), pointer(dbias)
        with thread_order(kernels("norm_rows"), order):
            call(kernels("norm_rows"), "row_norm", args, rows)
            _kept = scratch_for("norm_rows", "row_norm_backward", back)
            call(kernels("norm_rows"), "row_norm_backward", back, rows)
        results.append((y, sums, dx, dweight, dbias, found[1]))
    for others in results[1:]:
        for first, other in zip(results[0], others, strict=True):
            assert first.tobytes() == other.tobytes()
    y, sums, dx, dweight, dbias, its_rstd = results[0]
    reference.assert_close(sums, total, 1)
    reference.assert_close(its_rstd, rstd[:, 0], 16, kind="composed")
    reference.assert_close(y, want, 16, kind="composed")
    reference.assert_close(dx, want_dx, 16, kind="composed")
    reference.assert_close(dweight, (dy * scaled).sum(0), 16, kind="composed")
    reference.assert_close(dbias, dy.astype(np.float64).sum(0), 16, kind="composed")
    call(kernels("norm_rows"), "row_norm_backward", _in_place(back), rows)
    assert dy.tobytes() == dx.tobytes()


def _in_place(args: RowNormArgs) -> RowNormArgs:
    args.out, args.out_stride = args.other, args.other_stride
    return args


def test_rows_with_strides_and_without_weights(rng):
    whole = rng.standard_normal((6, 40)).astype(np.float32)
    x = whole[::2, 3:36]
    y = poisoned(x.shape, np.float32)
    rstd = poisoned((3,), np.float32)
    mean = poisoned((3,), np.float32)
    args = RowNormArgs(0, False, 3, 33, pointer(x), None, pointer(y), 80, 0, 33)
    args.mean, args.rstd, args.eps = pointer(mean), pointer(rstd), EPS
    call(kernels("norm_rows"), "row_norm", args, 3)
    wide = x.astype(np.float64)
    want = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + EPS)
    reference.assert_close(y, want, 16)


@pytest.mark.skipif(SMALL, reason="long")
def test_far_rows(rng):
    x = (1e4 + rng.standard_normal((2, 20_000))).astype(np.float32)
    y = poisoned(x.shape, np.float32)
    mean, rstd = poisoned((2,), np.float32), poisoned((2,), np.float32)
    args = RowNormArgs(0, False, 2, 20_000, pointer(x), None, pointer(y), 20_000, 0, 20_000)
    args.mean, args.rstd, args.eps = pointer(mean), pointer(rstd), EPS
    call(kernels("norm_rows"), "row_norm", args, 2)
    np.testing.assert_allclose(rstd, 1 / np.sqrt(x.astype(np.float64).var(1) + EPS), rtol=1e-5)
