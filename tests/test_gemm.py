"""gemm: exact on small integers at every tile edge, epilogues, batches, strides, errors, bits."""

from __future__ import annotations

import numpy as np
import pytest

from fences import run_fenced
from forced import LEVELS
from hotloop import DTypeError, OutputError, ShapeError
from hotloop.kernels import gemm, gemm_pack
from reference import LAYOUTS, assert_close, assert_same_bits, empty_with_layout, with_layout

# Around 4, 6 and 8 rows of a tile and 48 of a unit; around the lanes and the panels of each level;
# around the unroll and the blocks of 512 of the sum. 32 and 33 rows, 16 and 513 terms part paths.
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 25, 32, 33, 47, 48, 49, 64, 97)
COLUMNS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 128, 130, 257)
DEPTHS = (0, 1, 2, 3, 8, 15, 16, 17, 63, 130, 511, 512, 513, 1025)


def integers(rng, shape, dtype):
    """Small integers: every product and sum is exact, so results must be equal, not close."""
    return rng.integers(-3, 4, shape).astype(dtype)


def stored(a, transposed):
    """The matrices of `a` as an argument that gemm is told to transpose."""
    return np.ascontiguousarray(a.swapaxes(-1, -2)) if transposed else a


@pytest.mark.parametrize("trans", ["nn", "nt", "tn", "tt"])
def test_exact_at_the_edges_of_tiles(level, dtype, trans, rng):
    trans_a, trans_b = (side == "t" for side in trans)
    sizes = [(m, n, k) for m in ROWS for n in COLUMNS for k in DEPTHS]
    for index in rng.choice(len(sizes), 150, replace=False):
        m, n, k = sizes[index]
        a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
        c = gemm(stored(a, trans_a), stored(b, trans_b), trans_a=trans_a, trans_b=trans_b)
        np.testing.assert_array_equal(c, a @ b, err_msg=f"m {m}, n {n}, k {k}")


@pytest.mark.parametrize(
    ("m", "n", "k", "trans"),
    [
        (130, 200, 1100, "nn"),  # two blocks of k
        (130, 620, 1100, "nn"),  # packed
        (130, 200, 1100, "tt"),
        (30, 4200, 520, "nn"),  # more columns than are packed at a time
        (64, 70, 5000, "tn"),  # slices of k
        (8, 300, 2100, "nt"),  # dots
        (1, 5000, 70, "nn"),  # rows
        (14, 600, 900, "nn"),  # rows, several of them
        (8, 1088, 3001, "nn"),  # eight rows, with B from memory
        (66, 470, 1500, "nn"),  # panels that the first tile packs
        (31, 1100, 1000, "nn"),  # panels of which some rows are copied meanwhile
        (25, 1100, 1000, "nn"),  # by tiles of five rows
        (44, 1096, 1000, "nn"),
        (36, 1024, 1024, "nn"),  # B where it lies, as much as 36, 64 and 384 rows read
        (64, 512, 1024, "nn"),
        (384, 320, 1000, "nn"),
        (390, 700, 257, "nn"),
        (1165, 200, 40, "nn"),  # far more rows than columns: B is packed first
        (1165, 200, 40, "nt"),
        (1300, 512, 40, "nn"),  # the first rows pack B for the others
        (1300, 1000, 40, "tn"),
        (170, 300, 256, "tt"),  # columns of A where they lie, and from the next depth on packed
        (170, 300, 257, "tn"),
        (140, 1100, 2100, "nn"),  # three blocks of k, the first panels copied ahead
        (7, 790, 700, "nn"),  # tiles of three vectors
        (8, 390, 1400, "tn"),
        (900, 1, 700, "nn"),  # a column of results: the transposed product
        (900, 1, 700, "tn"),
        (1, 300, 30, "nn"),  # small, a row
        (20, 150, 12, "nn"),  # small
        (10, 81, 30, "tn"),
        (30, 33, 40, "nt"),  # small, packed
        (20, 65, 40, "nn"),  # small, a thin column
        (20, 66, 40, "nt"),
    ],
)
def test_exact_for_each_plan(level, dtype, m, n, k, trans, rng):
    a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
    trans_a, trans_b = (side == "t" for side in trans)
    bias, c = integers(rng, n, dtype), integers(rng, (m, n), dtype)
    expected = np.maximum(2 * (a @ b) - 3 * c + bias, 0)
    left, right = stored(a, trans_a), stored(b, trans_b)
    got = gemm(left, right, bias, trans_a=trans_a, trans_b=trans_b, alpha=2, beta=-3,
               activation="relu", out=c)  # fmt: skip
    assert got is c
    np.testing.assert_array_equal(c, expected)
    np.testing.assert_array_equal(
        gemm(left, right, trans_a=trans_a, trans_b=trans_b), a @ b, err_msg="without epilogue"
    )


@pytest.mark.parametrize("shape", [(1, 5, 3), (1, 100, 20), (5, 17, 40), (40, 70, 33), (3, 9, 300)])
@pytest.mark.parametrize("trans_b", [False, True])
def test_alpha_beta_bias(level, dtype, shape, trans_b, rng):
    m, n, k = shape
    a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
    bias = integers(rng, n, dtype)
    right = stored(b, trans_b)
    for alpha in (1, 0, -2.5):
        for beta in (0, 1, 0.5):
            for row in (None, bias):
                c = integers(rng, (m, n), dtype)
                expected = alpha * (a @ b) + beta * c + (0 if row is None else row)
                gemm(a, right, row, trans_b=trans_b, alpha=alpha, beta=beta, out=c)
                np.testing.assert_array_equal(c, expected)


@pytest.mark.parametrize("k", [0, 1, 40, 2100])
@pytest.mark.parametrize("m", [1, 3, 40])
def test_beta_zero_does_not_read_out(level, m, k, rng):
    a, b = integers(rng, (m, k), np.float32), integers(rng, (k, 70), np.float32)
    for right in (b, np.asfortranarray(b)):
        out = np.full((m, 70), np.nan, np.float32)
        np.testing.assert_array_equal(gemm(a, right, out=out), a @ b)


# A tile's rows and columns, the panels of each level, a unit's rows; the limits of the small path.
EDGES = ((6, 64), (8, 48), (8, 16), (6, 16), (4, 8), (144, 128), (64, 128), (2, 128))


@pytest.mark.parametrize("trans", ["nn", "nt", "tn", "tt"])
def test_exact_around_every_edge(level, dtype, trans, rng):
    """m and n one below, at and above the edges of tiles and units, k around vectors and blocks."""
    trans_a, trans_b = (side == "t" for side in trans)
    for rows, columns in EDGES:
        for m in (rows - 1, rows, rows + 1):
            for n in (columns - 1, columns, columns + 1):
                for k in (7, 16, 33):
                    a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
                    c = gemm(stored(a, trans_a), stored(b, trans_b), trans_a=trans_a,
                             trans_b=trans_b)  # fmt: skip
                    assert (c == a @ b).all(), (m, n, k)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exact_for_every_pattern_of_strides(level, dtype, layout, rng):
    for m, n, k in ((1, 70, 40), (7, 33, 65), (40, 130, 70), (150, 70, 20), (20, 90, 1100)):
        a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
        c = integers(rng, (m, n), dtype)
        out = empty_with_layout((m, n), dtype, layout)
        gemm(
            with_layout(a, layout), with_layout(b, layout), residual=with_layout(c, layout), out=out
        )
        np.testing.assert_array_equal(out, a @ b + c)
        np.testing.assert_array_equal(gemm(with_layout(a, layout), b), a @ b)
        np.testing.assert_array_equal(gemm(a, with_layout(b, layout)), a @ b)


@pytest.mark.parametrize("step", [512, 1024, 4096])
def test_rows_a_power_of_two_apart(level, dtype, step, rng):
    """The rows of A are copied where their steps would put them into the same sets of a cache."""
    for m, n, k in ((30, 300, 100), (150, 290, 90), (30, 30, 30)):
        a = np.zeros((m, step), dtype)
        b = np.zeros((k, step), dtype)
        a[:, :k], b[:, :n] = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
        c = np.zeros((m, step), dtype)
        gemm(a[:, :k], b[:, :n], out=c[:, :n])
        np.testing.assert_array_equal(c[:, :n], a[:, :k] @ b[:, :n])
        assert not c[:, n:].any()
        turned = np.ascontiguousarray(a[:, :k].T)
        np.testing.assert_array_equal(gemm(turned, b[:, :n], trans_a=True), c[:, :n])


SHAPES = [(1, 40, 30), (1, 5000, 70), (7, 21, 13), (20, 90, 700), (12, 330, 900), (20, 30, 2100),
          (50, 130, 20), (150, 330, 1100), (30, 64, 64), (3, 5, 0)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("trans_b", [False, True])
def test_residual(level, dtype, shape, trans_b, rng):
    m, n, k = shape
    a, b, c = (integers(rng, size, dtype) for size in ((m, k), (k, n), (m, n)))
    bias, right = integers(rng, n, dtype), stored(b, trans_b)
    expected = np.maximum(2 * (a @ b) + bias + c, 0)
    got = gemm(a, right, bias, trans_b=trans_b, alpha=2, activation="relu", residual=c)
    np.testing.assert_array_equal(got, expected)
    kept = c.copy()
    got = gemm(a, right, trans_b=trans_b, residual=c, out=c)  # in place
    assert got is c
    np.testing.assert_array_equal(c, a @ b + kept)
    rows = np.repeat(kept, 2, axis=0)[::-2]
    np.testing.assert_array_equal(gemm(a, right, trans_b=trans_b, residual=rows), a @ b + rows)


def test_residual_of_batches(level, dtype, rng):
    a, b = integers(rng, (3, 1, 9, 20), dtype), integers(rng, (4, 20, 17), dtype)
    c = integers(rng, (4, 3, 9, 17), dtype).transpose(1, 0, 2, 3)
    np.testing.assert_array_equal(gemm(a, b, residual=c), np.matmul(a, b) + c)
    rows = integers(rng, (3, 4, 9, 17), dtype)[:, ::-1]
    np.testing.assert_array_equal(gemm(a, b, residual=rows), np.matmul(a, b) + rows)
    one = integers(rng, (20, 17), dtype)
    np.testing.assert_array_equal(
        gemm(a, one, residual=rows[:, :1]), np.matmul(a, one) + rows[:, :1]
    )


def test_residual_is_of_the_results_shape(rng):
    a = integers(rng, (4, 4), np.float32)
    with pytest.raises(ShapeError, match=r"residual must have shape \(4, 4\)"):
        gemm(a, a, residual=a[0])
    with pytest.raises(DTypeError, match="residual must have the same dtype"):
        gemm(a, a, residual=a.astype(np.float64))
    with pytest.raises(ValueError, match="beta must be 0 where residual is given"):
        gemm(a, a, residual=a, beta=1, out=np.zeros((4, 4), np.float32))
    wide = np.zeros((5, 4), np.float32)
    with pytest.raises(OutputError, match="out must not overlap residual"):
        gemm(a, a, residual=wide[1:], out=wide[:-1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("trans_b", [False, True])
def test_packed_operands(level, dtype, shape, trans_b, rng):
    m, n, k = shape
    a, b, bias = (integers(rng, size, dtype) for size in ((m, k), (k, n), (n,)))
    pack = gemm_pack(stored(b, trans_b), trans_b=trans_b)
    assert pack.shape == (k, n)
    assert pack.dtype == dtype
    assert pack.nbytes >= b.nbytes
    np.testing.assert_array_equal(gemm(a, pack), a @ b)
    np.testing.assert_array_equal(
        gemm(stored(a, True), pack, bias, trans_a=True, activation="relu"),
        np.maximum(a @ b + bias, 0),
    )
    stack = np.stack([a, a[::-1]])
    np.testing.assert_array_equal(gemm(stack, pack), stack @ b)


def test_a_pack_is_a_copy_and_serves_every_level(rng):
    from hotloop.kernels import force_isa

    a, b = integers(rng, (20, 90), np.float32), integers(rng, (90, 200), np.float32)
    expected = a @ b
    packs = [gemm_pack(b)]
    with force_isa("generic"):
        packs.append(gemm_pack(b[:, ::-1]))
        np.testing.assert_array_equal(gemm(a, packs[0]), expected)
    np.testing.assert_array_equal(gemm(a, packs[1]), expected[:, ::-1])
    b[...] = 0
    np.testing.assert_array_equal(gemm(a, packs[0]), expected)


def test_the_bits_with_a_pack_do_not_depend_on_threads(level, rng):
    a, b = rng.standard_normal((33, 2100), np.float32), rng.standard_normal((2100, 700), np.float32)
    pack = gemm_pack(b)
    assert_same_bits(lambda: gemm(a, pack))
    assert_same_bits(lambda: gemm_pack(b) and gemm(a[:1], pack, residual=a[:1, :700]))


def test_errors_of_packs_say_what_to_do(rng):
    a = integers(rng, (3, 4), np.float32)
    pack = gemm_pack(a)
    with pytest.raises(ShapeError, match="the columns of a must equal the rows of b"):
        gemm(a, pack)
    with pytest.raises(ValueError, match="trans_b must be False where b is packed"):
        gemm(a, pack, trans_b=True)
    with pytest.raises(DTypeError, match="same dtype"):
        gemm(a[:, :3].astype(np.float64), pack)
    with pytest.raises(ShapeError, match="b must have 2 axes"):
        gemm_pack(a[0])
    with pytest.raises(DTypeError, match=r"b must be a numpy\.ndarray"):
        gemm_pack([[1.0]])
    empty = gemm_pack(np.empty((0, 4), np.float32))
    np.testing.assert_array_equal(gemm(np.empty((2, 0), np.float32), empty), np.zeros((2, 4)))


def test_no_terms_gives_beta_out_and_bias(level, dtype):
    a, b = np.empty((3, 0), dtype), np.empty((0, 5), dtype)
    bias = np.arange(5, dtype=dtype)
    np.testing.assert_array_equal(gemm(a, b), np.zeros((3, 5), dtype))
    out = np.full((3, 5), 2, dtype)
    gemm(a, b, bias, beta=3, out=out)
    np.testing.assert_array_equal(out, np.broadcast_to(6 + bias, (3, 5)))


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (0, 0, 0)])
def test_empty_results(dtype, shape):
    m, n, k = shape
    assert gemm(np.ones((m, k), dtype), np.ones((k, n), dtype)).shape == (m, n)


@pytest.mark.parametrize(("m", "k"), [(1, 20), (3, 50), (20, 70), (8, 700)])
def test_nan_and_infinity_stay_in_their_rows_and_columns(level, dtype, m, k, rng):
    for right in (integers(rng, (k, 67), dtype), integers(rng, (67, k), dtype).T):
        a, b = integers(rng, (m, k), dtype) + 0.5, right + 0.5
        a[m - 1, k - 1] = np.nan
        b[k // 2, 66] = np.inf
        with np.errstate(invalid="ignore"):
            expected = a.astype(np.float64) @ b.astype(np.float64)
        assert_close(gemm(a, b), expected, k, kind="product", scale=12.25 * k)


@pytest.mark.parametrize("name", ["leaky_relu", "relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("shape", [(1, 40, 300), (7, 21, 13), (50, 130, 20), (9, 5, 2500)])
def test_activation_follows_the_sum(level, dtype, name, shape, rng):
    formula = {
        "leaky_relu": lambda x: np.where(x < 0, 0.01 * x, x),
        "relu": lambda x: np.maximum(x, 0),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "tanh": np.tanh,
    }[name]
    m, n, k = shape
    a = (rng.standard_normal((m, k)) / np.sqrt(k)).astype(dtype)
    b, bias = rng.standard_normal((k, n)).astype(dtype), rng.standard_normal(n).astype(dtype)
    expected = formula(a.astype(np.float64) @ b.astype(np.float64) + bias.astype(np.float64))
    for right in (b, np.asfortranarray(b)):
        assert_close(gemm(a, right, bias, activation=name), expected, k, kind="composed")


@pytest.mark.parametrize(
    ("lead_a", "lead_b"),
    [
        ((3,), (3,)),
        ((3,), ()),  # rows of one long product
        ((), (4,)),
        ((2, 3), (3,)),
        ((2, 1), (1, 3)),
        ((2, 1, 2), (3, 1)),
        ((1,), (5,)),
        ((0,), (1,)),
        ((2, 2, 1, 2), (2, 1, 3, 2)),
    ],
)
def test_batches_broadcast_like_matmul(level, dtype, lead_a, lead_b, rng):
    for m, n, k in ((1, 5, 7), (9, 17, 30), (30, 66, 20), (2, 70, 600)):
        a, b = integers(rng, (*lead_a, m, k), dtype), integers(rng, (*lead_b, k, n), dtype)
        expected = np.matmul(a, b)
        for trans_a in (False, True):
            for trans_b in (False, True):
                left, right = stored(a, trans_a), stored(b, trans_b)
                got = gemm(left, right, trans_a=trans_a, trans_b=trans_b)
                np.testing.assert_array_equal(got, expected)
        out = integers(rng, expected.shape, dtype)
        expected = expected + out
        np.testing.assert_array_equal(gemm(a, b, beta=1, out=out), expected)


def test_batches_in_groups(dtype, rng):
    """More packed memory than is taken at a time."""
    a = integers(rng, (40, 40, 300), dtype)
    b = integers(rng, (40, 300, 130), dtype)[:, :, ::-1]
    np.testing.assert_array_equal(gemm(a, b), np.matmul(a, b))


@pytest.mark.parametrize("columns", [33, 130])
def test_many_rows_of_batches_that_share_b(level, dtype, columns, rng):
    """Images of pixels, channel by channel in memory: B is packed once for all of them."""
    a, b = integers(rng, (3, 40, 403), dtype), integers(rng, (columns, 40), dtype)
    expected = np.matmul(a.transpose(0, 2, 1), b.T)
    np.testing.assert_array_equal(gemm(a, b, trans_a=True, trans_b=True), expected)
    np.testing.assert_array_equal(gemm(a, b.T.copy(), trans_a=True), expected)
    np.testing.assert_array_equal(gemm(a.transpose(0, 2, 1).copy(), b, trans_b=True), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(level, dtype, layout, rng):
    for m, n, k in ((1, 70, 40), (3, 5, 7), (33, 70, 20), (40, 200, 530), (7, 40, 900)):
        a, b = integers(rng, (m, k), dtype), integers(rng, (k, n), dtype)
        bias, c = integers(rng, n, dtype), integers(rng, (m, n), dtype)
        expected = a @ b + bias + 2 * c
        left, right = with_layout(a, layout), with_layout(b, layout)
        out = with_layout(c, layout)
        assert gemm(left, right, with_layout(bias, layout), beta=2, out=out) is out
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(gemm(left, b), a @ b)
        np.testing.assert_array_equal(gemm(a, right), a @ b)
        np.testing.assert_array_equal(
            gemm(a, b, out=empty_with_layout((m, n), dtype, layout)), a @ b
        )


def test_strided_and_repeated_batches(dtype, rng):
    a, b = integers(rng, (4, 6, 5, 7), dtype), integers(rng, (7, 9), dtype)
    views = (a[::2, ::-1], a.transpose(1, 0, 2, 3), a[:, :, ::-1], a[..., ::2, :], a[:1, :1])
    for view in (*views, np.broadcast_to(a[0, 0], (3, 5, 7))):
        np.testing.assert_array_equal(gemm(view, b), np.matmul(view, b))
    right = np.broadcast_to(b[:, :1], (7, 9))  # stride 0
    np.testing.assert_array_equal(gemm(a, right), np.matmul(a, right))
    out = np.zeros((6, 4, 5, 9), dtype)
    gemm(a, b, out=out.transpose(1, 0, 2, 3))
    np.testing.assert_array_equal(out.transpose(1, 0, 2, 3), np.matmul(a, b))


@pytest.mark.parametrize("shape", [(33, 65, 70), (200, 150, 600), (1, 500, 300), (12, 300, 2000)])
def test_values(level, dtype, shape, rng):
    m, n, k = shape
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    left, right = a.astype(np.float64), b.astype(np.float64)
    scale = np.abs(left) @ np.abs(right)
    for b_view in (b, np.asfortranarray(b)):
        assert_close(gemm(a, b_view), left @ right, k, kind="product", scale=scale)


@pytest.mark.parametrize(
    ("m", "n", "k"),
    # 25.6 MB, the last tiles of which are not whole; a panel copied while another multiplies
    [(6155, 1040, 3), (6155, 1040, 10), (1000, 6416, 17)],
)
def test_results_that_leave_the_caches(level, m, n, k, rng):
    a, b = integers(rng, (m, k), np.float32), integers(rng, (k, n), np.float32)
    expected = a @ b
    np.testing.assert_array_equal(gemm(a, b), expected)
    shifted = np.empty(m * n + 1, np.float32)[1:].reshape(m, n)  # not at a cache line
    np.testing.assert_array_equal(gemm(a, b, out=shifted), expected)


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [
        ((300, 400), (400, 300)),
        ((64, 6000), (6000, 50)),
        ((1, 3000), (3000, 3000)),
        ((5, 64, 300), (5, 300, 130)),
        ((8, 3100), (3100, 1120)),
        ((131, 1030), (1030, 700)),
        ((3, 70, 300), (3, 300, 450)),
        ((1300, 70), (70, 130)),
        ((1300, 40), (40, 1030)),
        ((100, 2100), (2100, 700)),
        ((8, 1000), (1000, 610)),
    ],
)
def test_the_bits_do_not_depend_on_threads(level, shape_a, shape_b, rng):
    a, b = rng.standard_normal(shape_a, np.float32), rng.standard_normal(shape_b, np.float32)
    assert_same_bits(lambda: gemm(a, b, activation="relu"))
    assert_same_bits(lambda: gemm(a, np.ascontiguousarray(b.swapaxes(-1, -2)), trans_b=True))


GUARDED = """
from hotloop.kernels import gemm, gemm_pack, linear_backward
SIZES = ((1, 3, 5), (1, 70, 33), (2, 67, 9), (4, 17, 300), (7, 1, 13), (9, 33, 3), (30, 65, 18),
         (50, 70, 515), (13, 31, 2100), (62, 129, 705), (24, 33, 500), (1, 80, 300), (5, 300, 900))
rng = np.random.default_rng(0)
for level in LEVELS:
    with force_isa(level):
        for dtype in (np.float32, np.float64):
            for m, n, k in SIZES:
                for at_end in (False, True):
                    for trans_a in (False, True):
                        for trans_b in (False, True):
                            a = fenced((k, m) if trans_a else (m, k), dtype, at_end)
                            b = fenced((n, k) if trans_b else (k, n), dtype, at_end)
                            bias, out = fenced((n,), dtype, at_end), fenced((m, n), dtype, at_end)
                            a[...] = rng.integers(-3, 4, a.shape)
                            b[...] = rng.integers(-3, 4, b.shape)
                            bias[...] = rng.integers(-3, 4, n)
                            added = fenced((m, n), dtype, at_end)
                            added[...] = rng.integers(-3, 4, (m, n))
                            gemm(a, b, bias, trans_a=trans_a, trans_b=trans_b, out=out)
                            left, right = a.T if trans_a else a, b.T if trans_b else b
                            expected = left @ right + bias
                            assert (out == expected).all(), (level, dtype, m, n, k)
                            pack = gemm_pack(b, trans_b=trans_b)
                            gemm(a, pack, bias, trans_a=trans_a, residual=added, out=out)
                            assert (out == expected + added).all(), (level, dtype, m, n, k)
                            if not trans_a and trans_b:
                                dy = added
                                _, dw, db = linear_backward(dy, a, b)
                                assert (dw == dy.T @ a).all() and (db == dy.sum(0)).all()
                            del left, right, added, expected
print("no fence touched")
"""


def test_nothing_is_touched_outside_of_the_arrays():
    run_fenced(GUARDED, LEVELS)


F32 = np.float32


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: gemm(a, a), ShapeError, "gemm: the columns of a must equal the rows of b"),
        (lambda a: gemm(a, a[0]), ShapeError, "b must have at least 2 axes"),
        (lambda a: gemm(a[0], a), ShapeError, "a must have at least 2 axes"),
        (lambda a: gemm(a, a.T.astype(np.float64)), DTypeError, "same dtype"),
        (lambda a: gemm(a, [[1.0]]), DTypeError, "b must be a numpy.ndarray, got list"),
        (lambda a: gemm(a.astype(int), a.T), DTypeError, "float32 or float64"),
        (lambda a: gemm(a, a.T, np.ones(4, F32)), ShapeError, r"bias must have shape \(2,\)"),
        (lambda a: gemm(a, a.T, beta=1), OutputError, "out must be given where beta is not 0"),
        (lambda a: gemm(a, a.T, activation="rellu"), ValueError, "rellu"),
        (lambda a: gemm(a, a.T, out=np.empty((3, 2), F32)), ShapeError, r"out .*\(2, 2\)"),
        (lambda a: gemm(a, a.T, out=np.empty((2, 2))), DTypeError, "out must be float32"),
        (
            lambda a: gemm(np.ones((2, 3, 4), F32), np.ones((3, 4, 5), F32)),
            ShapeError,
            "leading axes must broadcast",
        ),
    ],
)
def test_errors_say_what_to_do(call, error, words):
    with pytest.raises(error, match=words):
        call(np.ones((2, 3), F32))


def test_out_must_be_writable_and_apart(rng):
    a = integers(rng, (4, 4), F32)
    before = a.copy()
    for overlapping in (a, a[::-1], a.T):
        with pytest.raises(OutputError, match="must not overlap a"):
            gemm(a, np.ones((4, 4), F32), out=overlapping)
        with pytest.raises(OutputError, match="must not overlap b"):
            gemm(np.ones((4, 4), F32), a, out=overlapping)
    with pytest.raises(OutputError, match="must not overlap bias"):
        gemm(np.ones((4, 4), F32), np.ones((4, 4), F32), a[0], out=a)
    np.testing.assert_array_equal(a, before)
    a.flags.writeable = False
    with pytest.raises(OutputError, match="writable"):
        gemm(np.ones((4, 4), F32), np.ones((4, 4), F32), out=a)
