"""gemm: the ways that a product may take: thin columns, shared panels, dots, outer products."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from hotloop.kernels import gemm, linear_backward
from reference import assert_same_bits
from test_gemm import integers, stored


@pytest.mark.parametrize("trans", ["nn", "nt", "tn"])
def test_columns_beside_full_tiles(level, dtype, trans, rng):
    """One to four columns more than a tile: dot products with rows of A, some of them twice."""
    trans_a, trans_b = (side == "t" for side in trans)
    for m in (4, 15, 16, 17, 40, 75):
        for n in (1, 2, 3, 4, 18, 33, 65, 66, 67, 68, 129):
            for k in (16, 33, 65, 130, 1100):
                a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
                bias, c = integers(rng, n, dtype), integers(rng, (m, n), dtype)
                expected = np.maximum(2 * (a @ b) - c + bias, 0)
                gemm(stored(a, trans_a), stored(b, trans_b), bias, trans_a=trans_a,
                     trans_b=trans_b, alpha=2, beta=-1, activation="relu", out=c)  # fmt: skip
                np.testing.assert_array_equal(c, expected, err_msg=f"m {m}, n {n}, k {k}")


@pytest.mark.parametrize("k", [1, 2, 5, 8, 9])
def test_few_terms(level, dtype, k, rng):
    """Whole rows of C one after the other."""
    for m, n in ((7, 300), (70, 64), (70, 65), (33, 8200), (400, 130)):
        a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
        expected = a @ b
        for left in (a, np.asfortranarray(a)):
            np.testing.assert_array_equal(gemm(left, b), expected)
            np.testing.assert_array_equal(gemm(left, np.asfortranarray(b)), expected)
        out = integers(rng, (m, n), dtype)
        np.testing.assert_array_equal(gemm(a, b, beta=0, residual=out), expected + out)


@pytest.mark.parametrize("shape", [(40, 70, 900), (200, 130, 300), (33, 300, 600), (700, 64, 70),
                                   (40, 64, 900), (50, 48, 800), (50, 35, 800)])  # fmt: skip
def test_threads_that_share_panels(level, dtype, shape, rng):
    """Fewer panels than threads could take: each packs its own copy, the bits are the same."""
    m, n, k = shape
    a, b = integers(rng, (m, k), dtype), integers(rng, (n, k), dtype)
    np.testing.assert_array_equal(gemm(a, b, trans_b=True), a @ b.T)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((n, k)).astype(dtype)
    assert_same_bits(lambda: gemm(a, b, trans_b=True))
    assert_same_bits(lambda: gemm(a, b[:65], trans_b=True))


def test_sums_of_rows_where_the_first_rows_pack_b(level, dtype, threads, rng):
    dy, x = integers(rng, (40, 1300), dtype), integers(rng, (40, 512), dtype)
    w = np.zeros((1300, 512), dtype)
    _, dw, db = linear_backward(dy, x, w)
    np.testing.assert_array_equal(dw, dy.T @ x)
    np.testing.assert_array_equal(db, dy.sum(0))


@pytest.mark.parametrize("m", [48, 49, 53, 54, 55, 66])
def test_panels_that_a_tile_packs_on_its_way(level, dtype, m, rng):
    """B with steps of its own between and in the rows, forward and backward, ends in mid-panel."""
    b = integers(rng, (1001, 620), dtype)  # more than two threads read where it lies
    for part in (b[:, :530], b[::-1, 64:600], b[:990, 1:541], b[:, ::-1][:, :130], b[:, ::2]):
        a = integers(rng, (m, part.shape[0]), dtype)
        np.testing.assert_array_equal(gemm(a, part), a @ part)
        np.testing.assert_array_equal(gemm(a.T.copy(), part, trans_a=True), a @ part)


@pytest.mark.parametrize(
    "shape",
    [
        (64, 64, 64),
        (33, 65, 97),
        (16, 400, 30),
        (130, 20, 50),
        (8, 784, 64),
        (1, 784, 64),
        (64, 784, 8),
        (7, 700, 90),
        (10, 450, 32),
        (12, 130, 64),
    ],
)
@pytest.mark.parametrize("trans", ["nn", "nt", "tn", "tt"])
def test_small_products_of_several_threads(level, dtype, shape, trans, rng):
    """Blocks of rows, or of columns, for threads that are awake, and again when they slept."""
    m, n, k = shape
    trans_a, trans_b = (side == "t" for side in trans)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    left, right = stored(a, trans_a), stored(b, trans_b)

    def product():
        return gemm(left, right, trans_a=trans_a, trans_b=trans_b, activation="relu")

    assert_same_bits(product)
    expected = product()
    for pause in (0, 0.001, 0):
        time.sleep(pause)
        np.testing.assert_array_equal(product(), expected)
    a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
    got = gemm(stored(a, trans_a), stored(b, trans_b), trans_a=trans_a, trans_b=trans_b)
    np.testing.assert_array_equal(got, a @ b)


@pytest.mark.parametrize("m", [2, 3, 4, 5, 8, 9, 31, 32, 33])
def test_dots_at_the_edges(level, dtype, m, rng):
    """Columns by fours and fives, blocks of columns and of rows for threads."""
    for n in (1, 3, 4, 5, 6, 7, 9, 10, 11, 15, 16, 17, 20, 63, 65, 130):
        for k in (129, 400, 513):
            # The first element of A lies anywhere in a cache line.
            memory = integers(rng, m * (k + 3) + 16, dtype)[int(rng.integers(0, 16)) :]
            a = memory[: m * (k + 3)].reshape(m, k + 3)[:, :k]
            b, c, bias = (
                integers(rng, (n, k), dtype),
                integers(rng, (m, n), dtype),
                rng.choice(9, n),
            )
            np.testing.assert_array_equal(gemm(a, b, trans_b=True), a @ b.T)
            expected = np.maximum(2 * (a @ b.T) - c + bias.astype(dtype), 0)
            gemm(a, b, bias.astype(dtype), trans_b=True, alpha=2, beta=-1, activation="relu", out=c)
            np.testing.assert_array_equal(c, expected)


@pytest.mark.parametrize(("n", "k"), [(1030, 3100), (59, 54000)])
def test_eight_rows_of_dots_from_memory(level, n, k, rng):
    a, b = integers(rng, (8, k), np.float32), integers(rng, (n, k), np.float32)
    expected = a @ b.T
    np.testing.assert_array_equal(gemm(a, b, trans_b=True), expected)
    bias, out = rng.choice(9, n).astype(np.float32), np.ones((8, n), np.float32)
    gemm(a, b, bias, trans_b=True, beta=3, out=out)
    np.testing.assert_array_equal(out, expected + bias + 3)
    rough = rng.standard_normal(a.shape).astype(np.float32)
    assert_same_bits(lambda: gemm(rough, b, trans_b=True))


@pytest.mark.parametrize(
    "shape",
    [(8, 10, 512), (32, 64, 784), (31, 20, 401), (32, 5, 3000), (7, 64, 784)]
    + [(14, 18, 1549), (9, 18, 1451), (14, 35, 1496), (13, 34, 679), (9, 51, 900)]
    + [(1, 64, 784), (1, 35, 900), (1, 403, 1024), (1, 19, 3000)]
    + [(32, 20, 400), (24, 33, 500), (16, 20, 403), (131, 20, 400), (57, 18, 1000)],
)
def test_the_bits_of_dots_depend_on_no_threads_and_no_address(level, dtype, shape, rng):
    m, n, k = shape
    b = rng.standard_normal((n, k)).astype(dtype)
    memory = rng.standard_normal(m * k + 32).astype(dtype)
    a = memory[: m * k].reshape(m, k).copy()
    assert_same_bits(lambda: gemm(a, b, trans_b=True))
    expected = gemm(a, b, trans_b=True)
    for first in (1, 2, 5, 8, 16):
        moved = memory[first : first + m * k].reshape(m, k)
        moved[...] = a
        np.testing.assert_array_equal(gemm(moved, b, trans_b=True), expected)


@pytest.mark.parametrize(("m", "n"), [(2, 40), (16, 1), (17, 16), (33, 67), (400, 131), (700, 900)])
def test_one_term_is_an_outer_product(level, dtype, m, n, rng):
    a, b, c = (
        integers(rng, (m, 1), dtype),
        integers(rng, (1, n), dtype),
        integers(rng, (m, n), dtype),
    )
    bias = rng.choice(9, n).astype(dtype)
    for left, right in ((a, b), (a.T.copy().T, b.T.copy().T), (np.repeat(a, 3, 1)[:, :1], b)):
        np.testing.assert_array_equal(gemm(left, right), a @ b)
        assert_same_bits(lambda left=left, right=right: gemm(left, right))
        out = c.copy()
        gemm(left, right, bias, alpha=2, beta=-1, activation="relu", out=out)
        np.testing.assert_array_equal(out, np.maximum(2 * (a @ b) - c + bias, 0))
    wide = np.full((m, n + 5), 7, dtype)
    gemm(a, b, out=wide[:, :n])
    np.testing.assert_array_equal(wide[:, :n], a @ b)
    assert (wide[:, n:] == 7).all()
    stack = integers(rng, (3, m, 1), dtype)
    np.testing.assert_array_equal(gemm(stack, b), stack @ b)


def test_a_large_outer_product_goes_around_the_caches(level, rng):
    a, b = integers(rng, (2600, 1), np.float32), integers(rng, (1, 2576), np.float32)
    np.testing.assert_array_equal(gemm(a, b), a @ b)


def test_short_products_see_the_sign_of_zero(threads):
    a, b = np.ones((64, 64), np.float32), np.ones((64, 64), np.float32)
    for alpha in (0.0, -0.0, 0.0, -0.0):
        assert (np.signbit(gemm(a, b, alpha=alpha)) == np.signbit(alpha)).all()


HANDLER = """
import signal, time
import numpy as np
import hotloop as hl
from hotloop.kernels import gemm
hl.set_num_threads(8)
a, b = np.ones((3, 300), np.float32), np.ones((900, 300), np.float32)
row, few = np.ones((3, 600), np.float32), np.ones((200, 600), np.float32)
def handler(*_):
    gemm(row, few, trans_b=True)
    signal.setitimer(signal.ITIMER_REAL, 2e-4)  # once, or a slow machine would never come out
signal.signal(signal.SIGALRM, handler)
handler()
end = time.monotonic() + 3
while time.monotonic() < end:
    y = gemm(a, b, trans_b=True)
    assert (y == 300).all()
    y.fill(np.nan)  # what the next one is written to
signal.signal(signal.SIGALRM, signal.SIG_IGN)
"""


def test_a_handler_of_signals_may_multiply():
    subprocess.run([sys.executable, "-c", HANDLER], check=True, timeout=60)
