"""Products on the emulated GPU against float64: every layout, edge of a tile, batch and epilogue,
in several orders of the threads, whose results must be the same bits."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

from emulated import ORDERS, call, kernels, poisoned, thread_order, workspace

ACTIVATIONS = ["none", "relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"]


class Matrix(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("row_step", ctypes.c_int64),
        ("column_step", ctypes.c_int64),
        ("batch_step", ctypes.c_int64),
        ("offsets", ctypes.c_void_p),
    )


class Problem(ctypes.Structure):
    """GemmProblem of kernels/gemm.h."""

    _fields_ = (
        ("dtype", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("activation_alpha", ctypes.c_double),
        ("m", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("batches", ctypes.c_int64),
        ("a", Matrix),
        ("b", Matrix),
        ("c", Matrix),
        ("d", Matrix),
        ("bias", ctypes.c_void_p),
        ("alpha", ctypes.c_double),
        ("beta", ctypes.c_double),
        ("a_sums", ctypes.c_void_p),
        ("interruptible", ctypes.c_bool),
        ("packed_columns", ctypes.c_int64),
        ("scratch", ctypes.c_void_p),
    )


@pytest.fixture(scope="module")
def gemm():
    return kernels("gemm")


@pytest.fixture(params=[-1, 0, 1, 2], ids=["chosen", "128x128", "128x64", "64x64"])
def tile(request, gemm):
    gemm.hotloop_cuda_gemm_force(request.param)
    yield request.param
    gemm.hotloop_cuda_gemm_force(-1)


def matrix(array: np.ndarray | None, offsets: np.ndarray | None = None) -> Matrix:
    if array is None:
        return Matrix()
    steps = [stride // array.itemsize for stride in array.strides]
    batch = steps[0] if array.ndim == 3 else 0
    at = None if offsets is None else offsets.ctypes.data
    return Matrix(array.ctypes.data, steps[-2], steps[-1], batch, at)


def run(gemm, a, b, c, *, alpha=1.0, beta=0.0, bias=None, d=None, activation=0, sums=None):
    p = Problem(dtype=0 if a.dtype == np.float32 else 1, activation=activation, alpha=alpha)
    p.activation_alpha = 0.01 if activation == 2 else 1.0
    p.m, p.k = a.shape[-2:]
    p.n = b.shape[-1]
    p.batches = c.shape[0] if c.ndim == 3 else 1
    p.beta = beta
    p.a, p.b, p.c = matrix(a), matrix(b), matrix(c)
    if beta:
        p.d = matrix(c if d is None else d)
    p.bias = None if bias is None else bias.ctypes.data
    p.a_sums = None if sums is None else sums.ctypes.data
    scratch = np.full(workspace(gemm, "gemm", p) + 64, 255, np.uint8)
    p.scratch = scratch.ctypes.data
    call(gemm, "gemm", p)
    assert (scratch[-64:] == 255).all()
    return c


def expected(activation: str, x: np.ndarray) -> np.ndarray:
    from math import erf

    sigmoid = 1 / (1 + np.exp(-x))
    cubic = x + 0.044715 * x**3
    return {
        "none": x,
        "relu": np.maximum(x, 0),
        "leaky_relu": np.where(x < 0, 0.01 * x, x),
        "elu": np.where(x < 0, np.expm1(x), x),
        "gelu": x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2,
        "gelu_tanh": x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * cubic)),
        "silu": x * sigmoid,
        "sigmoid": sigmoid,
        "tanh": np.tanh(x),
    }[activation]


def assert_close(got, want, k):
    eps = np.finfo(got.dtype).eps
    np.testing.assert_allclose(got, want, rtol=0, atol=(4 + k) * eps * (1 + np.abs(want).max()))


def operand(rng, rows, columns, dtype, layout):
    """A matrix whose rows (n) or columns (t) are dense, aligned or not, or neither (s)."""
    if layout == "t":
        return operand(rng, columns, rows, dtype, "n").T
    if layout == "s":
        return rng.standard_normal((rows * 2, columns * 3)).astype(dtype)[::2, ::3]
    if layout == "odd":  # dense rows that are not aligned
        whole = rng.standard_normal(rows * (columns + 1) + 1).astype(dtype)[1:]
        return whole.reshape(rows, columns + 1)[:, :columns]
    return rng.standard_normal((rows, columns)).astype(dtype)


@pytest.mark.parametrize("layouts", list(itertools.product("nt", "nt")) + [("odd", "s")])
@pytest.mark.parametrize("shape", [(1, 1, 1), (65, 67, 17), (130, 132, 48), (63, 128, 16)])
def test_layouts_and_edges(gemm, rng, tile, shape, layouts):
    m, n, k = shape
    a = operand(rng, m, k, np.float32, layouts[0])
    b = operand(rng, k, n, np.float32, layouts[1])
    c = run(gemm, a, b, poisoned((m, n), np.float32))
    assert_close(c, a.astype(np.float64) @ b.astype(np.float64), k)


@pytest.mark.parametrize("layouts", list(itertools.product("nt", "nt")))
def test_float64(gemm, rng, layouts):
    a = operand(rng, 70, 33, np.float64, layouts[0])
    b = operand(rng, 33, 66, np.float64, layouts[1])
    c = run(gemm, a, b, poisoned((70, 66), np.float64))
    np.testing.assert_allclose(c, a @ b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("m", "n", "k"), [(66, 20, 30), (3, 40, 50), (40, 2, 600)])
def test_epilogue(gemm, rng, activation, m, n, k):
    a, b = operand(rng, m, k, np.float32, "n"), operand(rng, k, n, np.float32, "t")
    bias = rng.standard_normal(n).astype(np.float32)
    d = rng.standard_normal((m, n + 3)).astype(np.float32)[:, :n]
    scale = 1 / np.sqrt(k)
    kind = ACTIVATIONS.index(activation)
    settings = {"alpha": scale, "bias": bias, "activation": kind}
    product = scale * (a.astype(np.float64) @ b) + bias
    c = run(gemm, a, b, poisoned((m, n), np.float32), **settings)
    assert_close(c, expected(activation, product), 8)
    c = run(gemm, a, b, poisoned((m, n), np.float32), **settings, beta=0.5, d=d)
    assert_close(c, expected(activation, product + 0.5 * d), 8)
    c = d.copy()
    run(gemm, a, b, c, **settings, beta=2.0)
    assert_close(c, expected(activation, product + 2 * d), 8)


def test_an_empty_sum_is_the_bias(gemm, rng):
    bias = rng.standard_normal(20).astype(np.float32)
    for m in (1, 30):
        a, b = np.zeros((m, 0), np.float32), np.zeros((0, 20), np.float32)
        c = run(gemm, a, b, poisoned((m, 20), np.float32), bias=bias, activation=1)
        np.testing.assert_array_equal(c, np.broadcast_to(np.maximum(bias, 0), (m, 20)))


@pytest.mark.parametrize("m", [1, 2, 8, 9, 40])
@pytest.mark.parametrize("n", [1, 5, 33])
@pytest.mark.parametrize("layouts", list(itertools.product("nt", "nt")) + [("s", "s")])
def test_long_sums_are_cut(gemm, rng, m, n, layouts):
    """Slices of k, and products with a vector."""
    k = 4102
    a = operand(rng, m, k, np.float32, layouts[0])
    b = operand(rng, k, n, np.float32, layouts[1])
    c = run(gemm, a, b, poisoned((m, n), np.float32))
    want = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(c, want, rtol=0, atol=2e-6 * np.sqrt(k) * 4)


@pytest.mark.parametrize("m", [3, 70])
def test_batches(gemm, rng, tile, m):
    a = rng.standard_normal((3, m, 20)).astype(np.float32)
    b = rng.standard_normal((3, 20, 18)).astype(np.float32)
    c = run(gemm, a, b, poisoned((3, m, 18), np.float32), activation=8)
    assert_close(c, np.tanh(a.astype(np.float64) @ b), 20)
    shared = np.broadcast_to(b[:1], b.shape)
    c = run(gemm, a, shared, poisoned((3, m, 18), np.float32))
    assert_close(c, a.astype(np.float64) @ shared, 20)


@pytest.mark.parametrize("regular", [True, False])
def test_batches_at_offsets(gemm, rng, regular):
    """Two batch axes as two steps; any other offsets as well."""
    a = rng.standard_normal((2, 3, 5, 10)).astype(np.float32)
    b = rng.standard_normal((2, 3, 10, 7)).astype(np.float32).transpose(1, 0, 2, 3)
    c = poisoned((3, 2, 5, 7), np.float32)
    a_offsets = np.array([i * 150 + j * 50 for j in range(3) for i in range(2)], np.int64)
    b_offsets = np.array([i * 210 + j * 70 for j in range(3) for i in range(2)], np.int64)
    c_offsets = np.arange(6, dtype=np.int64) * 35
    order = np.arange(6) if regular else np.array([3, 0, 5, 1, 2, 4])
    lists = [np.ascontiguousarray(at[order]) for at in (a_offsets, b_offsets, c_offsets)]
    p = Problem(m=5, n=7, k=10, batches=6, alpha=1)
    p.a = Matrix(a.ctypes.data, 10, 1, 0, lists[0].ctypes.data)
    p.b = Matrix(b.ctypes.data, 7, 1, 0, lists[1].ctypes.data)
    p.c = Matrix(c.ctypes.data, 7, 1, 0, lists[2].ctypes.data)
    scratch = np.zeros(workspace(gemm, "gemm", p), np.uint8)
    p.scratch = scratch.ctypes.data
    call(gemm, "gemm", p)
    assert_close(c, a.transpose(1, 0, 2, 3).astype(np.float64) @ b, 10)


@pytest.mark.parametrize("rows", [1, 40, 1100])
@pytest.mark.parametrize("layout", ["n", "t"])
def test_sums_of_rows(gemm, rng, rows, layout):
    """linear_backward's db: the sums of the rows of dy transposed."""
    dy = operand(rng, 37, rows, np.float32, layout)
    x = rng.standard_normal((rows, 12)).astype(np.float32)
    sums = poisoned((37,), np.float32)
    c = run(gemm, dy, x, poisoned((37, 12), np.float32), sums=sums)
    assert_close(c, dy.astype(np.float64) @ x, rows)
    assert_close(sums, dy.sum(axis=1, dtype=np.float64), rows)


@pytest.mark.parametrize("shape", [(130, 70, 40), (20, 30, 1500), (4, 90, 3000), (90, 1, 200)])
def test_orders_of_threads_give_the_same_bits(gemm, rng, shape):
    m, n, k = shape
    a, b = operand(rng, m, k, np.float32, "n"), operand(rng, k, n, np.float32, "t")
    results = []
    for name in ORDERS:
        with thread_order(gemm, name):
            sums = poisoned((m,), np.float32)
            c = run(gemm, a, b, poisoned((m, n), np.float32), sums=sums, activation=6)
            results.append(c.tobytes() + sums.tobytes())
    assert len(set(results)) == 1


def test_nan_goes_where_it_belongs(gemm, rng):
    a, b = operand(rng, 70, 20, np.float32, "n"), operand(rng, 20, 66, np.float32, "n")
    a[65, 3] = np.nan
    c = run(gemm, a, b, poisoned((70, 66), np.float32), activation=1)
    assert np.isnan(c[65]).all()
    assert not np.isnan(np.delete(c, 65, axis=0)).any()
