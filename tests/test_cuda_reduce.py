"""csrc/kernels/cuda/reduce.cu and reduce_along.cu on the emulator, against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

import reference
from cuda_args import SMALL, AlongArgs, ReduceArgs, dtype_code, fill, pointer, small, steps
from emulated import ORDERS, call, kernels, poisoned, thread_order, workspace

OPS = ("sum", "max", "min", "prod", "squares", "var", "logsumexp")


def run(op: str, x: np.ndarray, axes: tuple[int, ...], divisor: float = 1.0) -> np.ndarray:
    kept = [d for d in range(x.ndim) if d not in axes]
    out = poisoned(tuple(x.shape[d] for d in kept), x.dtype.type)
    args = ReduceArgs(dtype_code(x), OPS.index(op), pointer(x), pointer(out))
    args.divisor = divisor
    args.reduced = int(np.prod([x.shape[d] for d in axes]))
    args.outputs = out.size
    args.kept_dims, args.reduced_dims = max(len(kept), 1), len(axes)
    fill(args.kept_sizes, [x.shape[d] for d in kept] or [1])
    fill(args.kept_strides, [steps(x)[d] for d in kept])
    fill(args.out_strides, steps(out))
    fill(args.reduced_sizes, [x.shape[d] for d in axes])
    fill(args.reduced_strides, [steps(x)[d] for d in axes])
    args.columns = bool(kept) and steps(x)[kept[-1]] == 1 and out.size > 1
    name = "pair_reduce" if op in ("var", "logsumexp") else "reduce"
    scratch = poisoned((workspace(kernels("reduce"), name, args) // 4,), np.float32)
    args.scratch = pointer(scratch)
    call(kernels("reduce"), name, args, out.size)
    return out


def expected(op: str, x: np.ndarray, axes: tuple[int, ...], divisor: float) -> np.ndarray:
    x = x.astype(np.float64)
    if op == "var":
        mean = x.mean(axes, keepdims=True)
        return ((x - mean) ** 2).sum(axes) / divisor
    if op == "logsumexp":
        top = np.where(np.isfinite(most := x.max(axes, keepdims=True)), most, 0)
        return np.log(np.exp(x - top).sum(axes)) + np.squeeze(top, axes)
    if op == "squares":
        return (x**2).sum(axes) / divisor
    return getattr(np, op)(x, axes) / divisor


# Warps, blocks, chunks of them; columns, with chunks; several reduced axes; one element.
CASES = [
    ((1,), (0,)),
    ((5, 33), (1,)),
    ((3, 700), (1,)),
    ((3, 1024), (1,)),
    ((2, 9001), (1,)),
    ((20_000,), (0,)),
    ((37, 5), (0,)),
    ((900, 40), (0,)),
    ((3, 21, 17), (1,)),
    ((4, 6, 35), (0, 2)),
    ((3, 2, 33), (2, 0)),
]
CASES = [case for case in CASES if small(math.prod(case[0]) // 4)]


@pytest.mark.parametrize(("shape", "axes"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", OPS)
def test_values_and_bits(rng, op, dtype, shape, axes):
    x = rng.standard_normal(shape).astype(dtype)
    if op == "prod":
        x = (1 + x * 1e-3).astype(dtype)
    divisor = 1.0 if op in ("max", "min", "logsumexp", "prod") else 7.0
    want = expected(op, x, axes, divisor)
    results = []
    for order in ORDERS if x.size < 5000 else ("forward", "random"):
        with thread_order(kernels("reduce"), order):
            results.append(run(op, x, axes, divisor))
    assert {result.tobytes() for result in results} == {results[0].tobytes()}
    terms = x.size / max(want.size, 1)
    scale = np.abs(x).astype(np.float64).sum(axes).max() / divisor if op == "sum" else None
    depth = terms if op == "prod" else terms**0.5 + 16
    reference.assert_close(results[0], want, int(depth), kind="product", scale=scale)


@pytest.mark.skipif(SMALL, reason="long")
def test_strides_and_a_far_mean(rng):
    x = (rng.standard_normal((30, 64)) + 1e4).astype(np.float32)[::-2, ::3]
    reference.assert_close(run("sum", x, (1,)), expected("sum", x, (1,), 1.0), 8, scale=3e5)
    want = expected("var", x, (1,), 21.0)
    np.testing.assert_allclose(run("var", x, (1,), 21.0), want, rtol=2e-3)
    far = (rng.standard_normal(150_000) + 1e3).astype(np.float32)
    far_variance = expected("var", far, (0,), far.size)
    np.testing.assert_allclose(run("var", far, (0,), far.size), far_variance, rtol=2e-4)


@pytest.mark.skipif(SMALL, reason="long")
def test_a_long_sum_keeps_its_digits(rng):
    x = rng.uniform(0, 1, 200_000).astype(np.float32)
    np.testing.assert_allclose(run("sum", x, (0,)), x.astype(np.float64).sum(), rtol=1e-6)


@pytest.mark.parametrize("n", [n for n in (40, 1200, 20_000) if small(n)])
def test_nan_and_infinities(n):
    x = np.zeros((4, n), np.float32)
    x[0, n // 2] = np.nan
    x[1, 3] = np.inf
    x[2] = -np.inf
    assert np.isnan(run("max", x, (1,))[0])
    assert np.isnan(run("min", x, (1,))[0])
    assert np.isnan(run("logsumexp", x, (1,))[0])
    np.testing.assert_allclose(run("logsumexp", x, (1,))[1:], [np.inf, -np.inf, np.log(n)], 1e-6)


def test_nothing_to_reduce():
    x = np.zeros((3, 0), np.float32)
    assert run("sum", x, (1,)).tolist() == [0, 0, 0]
    assert run("prod", x, (1,)).tolist() == [1, 1, 1]
    assert run("logsumexp", x, (1,)).tolist() == [-np.inf] * 3


def along(name: str, x: np.ndarray, axis: int, out: np.ndarray, smallest: bool = False) -> None:
    args = AlongArgs(dtype_code(x), smallest)
    args.x, args.out = pointer(x), pointer(out)
    args.size, args.stride = x.shape[axis], steps(x)[axis]
    kept = [d for d in range(x.ndim) if d != axis]
    args.kept_dims = max(len(kept), 1)
    fill(args.kept_sizes, [x.shape[d] for d in kept] or [1])
    fill(args.kept_strides, [steps(x)[d] for d in kept])
    args.columns = bool(kept) and steps(x)[kept[-1]] == 1
    if name == "running_sum":
        args.out_stride = steps(out)[axis]
        fill(args.out_strides, [steps(out)[d] for d in kept])
        args.columns = args.columns and steps(out)[kept[-1]] == 1
    call(kernels("reduce_along"), name, args, x.size)


ALONG = [((7,), 0), ((9, 40), 1), ((3, 1500), 1), ((50, 37), 0), ((3, 20, 5), 1)]


@pytest.mark.parametrize(("shape", "axis"), ALONG)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_along_an_axis(rng, dtype, shape, axis):
    x = rng.integers(-4, 4, shape).astype(dtype)  # many equal ones: the first counts
    x.flat[x.size // 2] = np.nan
    for smallest, want in ((False, np.argmax(x, axis)), (True, np.argmin(x, axis))):
        for order in ORDERS:
            out = np.full(want.shape, -7, np.int64)
            with thread_order(kernels("reduce_along"), order):
                along("index_along", x, axis, out, smallest)
            np.testing.assert_array_equal(out, want)
    y = rng.standard_normal(shape).astype(dtype)
    want = np.cumsum(y.astype(np.float64), axis)
    out = poisoned(shape, dtype)
    along("running_sum", y, axis, out)
    reference.assert_close(out, want, int(shape[axis] ** 0.5) + 8)
    along("running_sum", y, axis, y)
    assert y.tobytes() == out.tobytes()


def test_along_a_backward_axis(rng):
    x = rng.standard_normal((6, 300)).astype(np.float32)[:, ::-2]
    out = np.zeros(6, np.int64)
    along("index_along", x, 1, out)
    np.testing.assert_array_equal(out, np.argmax(x, 1))
