"""csrc/kernels/cuda/softmax.cu on the emulator, against float64 and in several thread orders."""

from __future__ import annotations

import math

import numpy as np
import pytest

import reference
from cuda_args import SMALL, SoftmaxArgs, dtype_code, fill, pointer, small, steps
from emulated import ORDERS, call, kernels, poisoned, thread_order

OPS = ("softmax", "log_softmax", "softmax_backward", "log_softmax_backward")


def run(op: str, a: np.ndarray, b: np.ndarray, out: np.ndarray, axis: int) -> None:
    args = SoftmaxArgs(dtype_code(a), OPS.index(op), pointer(a), pointer(b), pointer(out))
    args.n = a.shape[axis]
    strides = [steps(array) for array in (a, b, out)]
    fill(args.axis_strides, [step[axis] for step in strides])
    rows = [d for d in range(a.ndim) if d != axis] or [axis]
    args.row_dims = len(rows)
    fill(args.row_sizes, [a.shape[d] if d != axis else 1 for d in rows])
    for k in range(3):
        fill(args.row_strides[k], [strides[k][d] for d in rows])
    args.unit_stride = args.n == 1 or all(step[axis] == 1 for step in strides)
    last = rows[-1]
    args.columns = not args.unit_stride and all(step[last] == 1 for step in strides)
    call(kernels("softmax"), "softmax", args, a.size)


def expected(op: str, a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    if op == "softmax_backward":
        return b * (a - (a * b).sum(axis, keepdims=True))
    if op == "log_softmax_backward":
        return a - np.exp(b) * a.sum(axis, keepdims=True)
    return reference.softmax(a, axis) if op == "softmax" else reference.log_softmax(a, axis)


# Rows of a warp, of a block, and longer; packs whole and ragged.
SHAPES = [
    ((3, 1), 1),
    ((5, 10), 1),
    ((9, 33), 1),
    ((2, 256), 1),
    ((3, 513), 1),
    ((1, 1024), 1),
    ((2, 1028), 1),
    ((1, 8192), 1),
    ((1, 8196), 1),
    ((4, 21, 35), 1),
    ((5, 7), 0),
]
SHAPES = [case for case in SHAPES if small(math.prod(case[0]))]


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", OPS)
def test_values_and_bits(rng, op, dtype, shape, axis):
    a = rng.standard_normal(shape).astype(dtype)
    b = a if "backward" not in op else rng.standard_normal(shape).astype(dtype)
    results = []
    for order in ("forward", "random") if a.size > 2000 else ORDERS:
        out = poisoned(shape, dtype)
        with thread_order(kernels("softmax"), order):
            run(op, a, b, out, axis)
        results.append(out)
    depth = shape[axis] ** 0.5 * 2 + 8
    scale = max(1.0, float(np.abs(expected(op, a, b, axis)).max()))
    if "backward" in op:
        scale = max(scale, float(np.abs(a * np.exp(b)).sum(axis).max()))
    reference.assert_close(results[0], expected(op, a, b, axis), depth, kind="sum", scale=scale)
    for other in results[1:]:
        assert results[0].tobytes() == other.tobytes()


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("n", [n for n in (10, 700, 9000) if small(2 * n)])
def test_far_logits_stay_finite(rng, op, n):
    x = rng.uniform(-1e4, 1e4, (2, n)).astype(np.float32)
    out = poisoned(x.shape, np.float32)
    run(op, x, x, out, 1)
    scale = 2e4 if op == "log_softmax" else 1.0
    reference.assert_close(out, expected(op, x, x, 1), 8, kind="function", scale=scale)


@pytest.mark.parametrize("n", [n for n in (12, 280, 2000, 10000) if small(5 * n)])
def test_infinities_and_nan(n):
    x = np.zeros((5, n), np.float32)
    x[0, 3] = -np.inf
    x[1] = -np.inf
    x[2, 5] = np.inf
    x[3, n - 1] = np.nan
    out = poisoned(x.shape, np.float32)
    run("softmax", x, x, out, 1)
    assert out[0, 3] == 0
    assert np.isnan(out[1:4]).all()
    np.testing.assert_allclose(out[4], 1 / n, rtol=1e-5)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("n", [n for n in (7, 64, 1200, 8200) if small(4 * n)])
def test_in_place_with_strides(rng, op, n):
    a = np.zeros((4, 2 * n), np.float32)[::-1, ::2]
    a[...] = rng.standard_normal(a.shape)
    b = rng.standard_normal(a.shape).astype(np.float32)
    b = a if "backward" not in op else b
    want = expected(op, a, b, 1)
    run(op, a, b, a, 1)
    scale = max(1.0, np.abs(want).max(), float(np.exp(np.abs(b)).sum(1).max()))
    reference.assert_close(a, want, 16, kind="function", scale=scale)


@pytest.mark.skipif(SMALL, reason="long")
def test_a_very_long_row(rng):
    x = rng.standard_normal((1, 200_000)).astype(np.float32)
    out = poisoned(x.shape, np.float32)
    run("softmax", x, x, out, 1)
    want = expected("softmax", x, x, 1)
    assert np.abs(out / want - 1).max() < 3e-6
