"""gemm on bfloat16: exact on small integers, rounded once at the end, f32 sums, on every level."""

from __future__ import annotations

import numpy as np
import pytest

from fences import run_fenced
from forced import DOT_LEVELS, level_fixture
from hotloop import DTypeError, OutputError, ShapeError
from hotloop.kernels import force_isa, gelu, gemm, gemm_pack
from reference import LAYOUTS, assert_close, assert_same_bits, empty_with_layout, eps, with_layout

ml_dtypes = pytest.importorskip("ml_dtypes")

BF16, F32 = ml_dtypes.bfloat16, np.float32
# Around the rows of a tile, of a unit and of a packed block; the lanes and panels; words of two,
# slices of 256 and blocks of 1,024 words.
ROWS = (1, 2, 3, 5, 6, 7, 13, 35, 63, 64, 65, 71, 72, 73, 145)
COLUMNS = (1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 33, 48, 63, 64, 65, 127, 130)
DEPTHS = (0, 1, 2, 3, 7, 8, 63, 64, 65, 127, 129, 511, 513, 1023, 1025, 2048, 2050, 4099)


level = level_fixture(DOT_LEVELS)


def integers(rng, shape):
    """Small integers: products and sums are exact in f32."""
    return rng.integers(-3, 4, shape).astype(BF16)


def exact(a, b):
    return np.matmul(a.astype(F32), b.astype(F32))


def stored(a, transposed):
    return np.ascontiguousarray(a.swapaxes(-1, -2)) if transposed else a


def assert_rounded(got, expected):
    """`got` is `expected` (f32) rounded to bf16, bit for bit but for which NaN it is."""
    assert got.dtype == BF16
    wanted = expected.astype(BF16)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got.astype(F32)), nan)
    np.testing.assert_array_equal(got.view(np.uint16)[~nan], wanted.view(np.uint16)[~nan])


@pytest.mark.parametrize("trans", ["nn", "nt", "tn", "tt"])
def test_exact_at_the_edges_of_tiles(level, trans, rng):
    trans_a, trans_b = (side == "t" for side in trans)
    for _ in range(60):
        m, n, k = (int(rng.choice(sizes)) for sizes in (ROWS, COLUMNS, DEPTHS))
        a, b = integers(rng, (m, k)), integers(rng, (k, n))
        out = np.full((m, n), np.nan, F32)
        got = gemm(stored(a, trans_a), stored(b, trans_b), trans_a=trans_a, trans_b=trans_b,
                   out=out)  # fmt: skip
        assert got is out
        np.testing.assert_array_equal(out, exact(a, b), err_msg=f"m {m}, n {n}, k {k}")
        narrow = gemm(stored(a, trans_a), stored(b, trans_b), trans_a=trans_a, trans_b=trans_b)
        assert_rounded(narrow, out)


@pytest.mark.parametrize("shape", [(7, 70, 33), (64, 30, 500), (3, 100, 2100)])
def test_values(level, shape, rng):
    m, n, k = shape
    a, b = rng.standard_normal((m, k)).astype(BF16), rng.standard_normal((k, n)).astype(BF16)
    left, right = a.astype(np.float64), b.astype(np.float64)
    scale, out = np.abs(left) @ np.abs(right), np.empty((m, n), F32)
    assert_close(gemm(a, b, out=out), left @ right, k, kind="product", scale=scale)
    # The sum's error, and half a unit in the last of bf16's 8 bits.
    allowed = 2 * k * eps(F32) * scale + 2.0**-8 * np.abs(left @ right)
    assert (np.abs(gemm(a, b).astype(np.float64) - left @ right) <= allowed * 1.01).all()


def test_results_round_to_nearest_even(level, rng):
    bits = rng.integers(0, 2**32, 4000, np.uint64).astype(np.uint32)
    ties = (bits[:1000] & 0xFFFF0000) | 0x8000
    special = [0, 1, 0x7FFF, 0x8000, 0x8001, 0x18000, 0x7FFFFF, 0x800000, 0x7F7F8000, 0x7F7FFFFF]
    special += [0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF]
    special = np.array(special, np.uint32)
    numbers = np.concatenate([bits, ties, special, special | 0x80000000]).view(F32)
    none = np.empty((2, 0), BF16), np.empty((0, len(numbers)), BF16)
    with np.errstate(invalid="ignore", over="ignore"):
        got, expected = gemm(*none, numbers), numbers + F32(0)
        assert_rounded(got, np.broadcast_to(expected, got.shape))


def test_subnormal_results_are_kept(level, rng):
    a, b = integers(rng, (13, 20)), integers(rng, (20, 99))
    scale = 2.0**-128
    assert_rounded(gemm(a, b, alpha=scale), exact(a, b) * F32(scale))


def test_nan_and_infinity_stay_in_their_rows_and_columns(level, rng):
    a, b = integers(rng, (9, 35)) + BF16(0.5), integers(rng, (35, 67)) + BF16(0.5)
    a[8, 34], b[17, 66] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        expected = exact(a, b)
        got = gemm(a, b, out=np.empty((9, 67), F32))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("wide", [False, True])
def test_alpha_beta_bias_activation(level, wide, rng):
    dtype = F32 if wide else BF16
    for m, n, k in ((1, 5, 3), (40, 70, 33), (5, 17, 1100), (3, 4, 0)):
        a, b, bias = integers(rng, (m, k)), integers(rng, (k, n)), integers(rng, n)
        for alpha, beta in ((1, 0), (2, -1), (0, 0.5)):
            for row in (None, bias, bias.astype(F32), with_layout(bias, "negative")):
                c = integers(rng, (m, n)).astype(dtype)
                expected = alpha * exact(a, b) + beta * c.astype(F32)
                if row is not None:
                    expected = expected + row.astype(F32)
                gemm(a, b, row, alpha=alpha, beta=beta, activation="relu", out=c)
                np.testing.assert_array_equal(c, np.maximum(expected, 0).astype(dtype))
    x, w = rng.standard_normal((6, 40)).astype(BF16), rng.standard_normal((40, 37)).astype(BF16)
    sums = gemm(x, w, out=np.empty((6, 37), F32))
    curved = gemm(x, w, activation="gelu", out=np.empty((6, 37), F32))
    assert_close(curved, gelu(sums).astype(np.float64), kind="function", scale=np.abs(sums))


def test_beta_zero_does_not_read_out(level, rng):
    a, b = integers(rng, (5, 40)), integers(rng, (40, 70))
    out = np.full((5, 70), np.nan, BF16)
    np.testing.assert_array_equal(gemm(a, b, out=out).astype(F32), exact(a, b))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(level, layout, rng):
    for m, n, k in ((5, 70, 37), (70, 35, 68)):
        a, b = integers(rng, (m, k)), integers(rng, (k, n))
        for left, right in ((with_layout(a, layout), b), (a, with_layout(b, layout))):
            for dtype in (F32, BF16):
                out = empty_with_layout((m, n), dtype, layout)
                assert gemm(left, right, out=out) is out
                np.testing.assert_array_equal(out.astype(F32), exact(a, b))
                gemm(left, right, beta=2, out=out)
                np.testing.assert_array_equal(out.astype(F32), (3 * exact(a, b)).astype(dtype))


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [
        ((3, 5, 40), (3, 40, 9)),
        ((3, 5, 40), (40, 9)),
        ((5, 40), (3, 40, 9)),
        ((2, 1, 5, 41), (3, 41, 9)),
        ((2, 3, 70, 8), (2, 3, 8, 70)),
    ],
)
def test_batches_broadcast(level, shape_a, shape_b, rng):
    a, b = integers(rng, shape_a), integers(rng, shape_b)
    np.testing.assert_array_equal(gemm(a, b).astype(F32), exact(a, b))
    back = a[..., ::-1, :]
    np.testing.assert_array_equal(gemm(back, b).astype(F32), exact(back, b))


def test_empty_results():
    for m, n, k in ((0, 3, 4), (3, 0, 4), (0, 0, 0)):
        assert gemm(np.ones((m, k), BF16), np.ones((k, n), BF16)).shape == (m, n)


def test_the_bits_do_not_depend_on_threads(level, rng):
    a = rng.standard_normal((300, 401)).astype(BF16)
    for shape in ((401, 300), (3, 401, 130)):
        b = rng.standard_normal(shape).astype(BF16)
        out = np.empty((*shape[:-2], 300, shape[-1]), F32)
        assert_same_bits(lambda b=b, out=out: gemm(a, b, activation="relu", out=out).copy())


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 3, 5), (5, 70, 37), (40, 130, 600), (73, 65, 1025), (2, 4, 0)]
)
def test_packed_operands(level, m, n, k, trans_b, rng):
    a, b, bias = integers(rng, (m, k)), integers(rng, (k, n)), integers(rng, n)
    pack = gemm_pack(stored(b, trans_b), trans_b=trans_b)
    assert pack.shape == (k, n)
    assert pack.dtype == BF16
    out = np.empty((m, n), F32)
    np.testing.assert_array_equal(gemm(a, pack, out=out), exact(a, b))
    assert_rounded(
        gemm(stored(a, True), pack, bias, trans_a=True, activation="relu"),
        np.maximum(exact(a, b) + bias.astype(F32), 0),
    )
    stack = np.stack([a, a[::-1]])
    np.testing.assert_array_equal(gemm(stack, pack).astype(F32), gemm(stack, b).astype(F32))


def test_a_pack_serves_every_level(rng):
    a, b = integers(rng, (20, 90)), integers(rng, (90, 200))
    packs = [gemm_pack(b)]
    with force_isa("generic"):
        packs.append(gemm_pack(b))
        assert_rounded(gemm(a, packs[0]), exact(a, b))
    assert_rounded(gemm(a, packs[1]), exact(a, b))
    with pytest.raises(DTypeError, match="same dtype, got float32 and bfloat16"):
        gemm(a.astype(F32), packs[0])
    with pytest.raises(DTypeError, match="same dtype, got bfloat16 and float32"):
        gemm(a, gemm_pack(b.astype(F32)))
    with pytest.raises(ValueError, match="trans_b must be False where b is packed"):
        gemm(a, packs[0], trans_b=True)


@pytest.mark.parametrize("m", [3, 20])
@pytest.mark.parametrize("trans_b", [False, True])
def test_few_rows_on_any_number_of_threads(level, m, trans_b, rng):
    """Rows of B read where they lie, or panels that each thread packs for itself."""
    a, b = rng.standard_normal((m, 700)).astype(BF16), rng.standard_normal((700, 1100)).astype(BF16)
    right, pack, out = stored(b, trans_b), gemm_pack(b), np.empty((m, 1100), F32)
    assert_same_bits(lambda: gemm(a, right, trans_b=trans_b, out=out).copy())
    if m > 8 or not trans_b:  # the sums run along k in the same order
        np.testing.assert_array_equal(out, gemm(a, pack, out=np.empty_like(out)))
    left, wide = a.astype(np.float64), b.astype(np.float64)
    scale = np.abs(left) @ np.abs(wide)
    assert_close(out, left @ wide, 700, kind="product", scale=scale)


@pytest.mark.parametrize("trans_b", [False, True])
def test_few_rows_of_a_large_matrix(level, trans_b, rng):
    """B read once, where it lies: around the words, the lanes and the blocks of columns."""
    for m in range(1, 10):
        for _ in range(5):
            n = int(rng.choice((1, 2, 15, 16, 31, 33, 63, 65, 257, 1343, 1345, 2049, 2700, 8200)))
            k = int(rng.choice((1, 2, 3, 7, 8, 9, 15, 31, 33, 127, 129)))
            a, b = integers(rng, (m, k)), integers(rng, (k, n))
            bias, out = integers(rng, n), integers(rng, (m, n))
            expected = exact(a, b) + out.astype(F32) + bias.astype(F32)
            gemm(a, stored(b, trans_b), bias, trans_b=trans_b, beta=1, out=out)
            np.testing.assert_array_equal(out, expected.astype(BF16), err_msg=f"{m}, {n}, {k}")
            wide = np.zeros((k, n + 5), BF16)
            wide[:, 2:-3] = b
            np.testing.assert_array_equal(gemm(a, wide[::-1, 2:-3]).astype(F32), exact(a, b[::-1]))
            np.testing.assert_array_equal(gemm(a[:, ::-1], b).astype(F32), exact(a[:, ::-1], b))


GUARDED = """
import ml_dtypes
from hotloop.kernels import gemm
BF16 = ml_dtypes.bfloat16
rng = np.random.default_rng(0)
for level in LEVELS:
    with force_isa(level):
        for m, n, k in ((1, 3, 5), (2, 67, 9), (4, 17, 300), (7, 1, 13), (30, 65, 16), (3, 5, 1)):
            for at_end in (False, True):
                for trans_a in (False, True):
                    for trans_b in (False, True):
                        a = fenced((k, m) if trans_a else (m, k), BF16, at_end)
                        b = fenced((n, k) if trans_b else (k, n), BF16, at_end)
                        bias, out = fenced((n,), BF16, at_end), fenced((m, n), BF16, at_end)
                        a[...] = rng.integers(-3, 4, a.shape)
                        b[...] = rng.integers(-3, 4, b.shape)
                        bias[...] = rng.integers(-3, 4, n)
                        out[...] = 0
                        gemm(a, b, bias, trans_a=trans_a, trans_b=trans_b, beta=1, out=out)
                        left, right = a.T if trans_a else a, b.T if trans_b else b
                        exact = left.astype(np.float32) @ right.astype(np.float32)
                        exact = exact + bias.astype(np.float32)
                        assert (out == exact.astype(BF16)).all(), (level, m, n, k)
                        del left, right
print("no fence touched")
"""


def test_nothing_is_touched_outside_of_the_arrays():
    run_fenced(GUARDED, DOT_LEVELS)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: gemm(a, a), ShapeError, "gemm: the columns of a must equal the rows of b"),
        (lambda a: gemm(a, a[0]), ShapeError, "b must have at least 2 axes"),
        (lambda a: gemm(a, a.T.astype(F32)), DTypeError, "same dtype, got bfloat16 and float32"),
        (lambda a: gemm(a.astype(F32), a.T), DTypeError, "b must be float32 or float64"),
        (lambda a: gemm(a, a.T, np.ones(4, F32)), ShapeError, r"bias must have shape \(2,\)"),
        (lambda a: gemm(a, a.T, np.ones(2)), DTypeError, "bias must be float32 or bfloat16"),
        (lambda a: gemm(a, a.T, beta=1), OutputError, "out must be given where beta is not 0"),
        (lambda a: gemm(a, a.T, residual=a), ValueError, "residual must be None where a is b"),
        (lambda a: gemm(a, a.T, activation="rellu"), ValueError, "rellu"),
        (lambda a: gemm(a, a.T, out=np.empty((3, 2), F32)), ShapeError, r"out .*\(2, 2\)"),
        (lambda a: gemm(a, a.T, out=np.empty((2, 2))), DTypeError, "out must be float32 or bf"),
    ],
)
def test_errors_say_what_to_do(call, error, words):
    with pytest.raises(error, match=words):
        call(np.ones((2, 3), BF16))


def test_out_must_be_apart(rng):
    a = integers(rng, (4, 4))
    with pytest.raises(OutputError, match="must not overlap a"):
        gemm(a, np.ones((4, 4), BF16), out=a)
