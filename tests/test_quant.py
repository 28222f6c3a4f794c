"""Products of bytes exact on every level, and bytes for numbers after ONNX's formulas."""

from __future__ import annotations

import numpy as np
import pytest

from fences import run_fenced
from forced import DOT_LEVELS, level_fixture
from hotloop import DTypeError, OutputError, ShapeError
from hotloop.kernels import dequantize, force_isa, gemm_int8, gemm_pack, quantize, requantize
from reference import LAYOUTS, assert_same, assert_same_bits, empty_with_layout, with_layout

BYTES = (np.int8, np.uint8)
F32, I32, S8, U8 = np.float32, np.int32, np.int8, np.uint8

# Around the rows of a tile (2, 3, 6), of a unit (72) and of what is packed at a time (64); around
# the lanes (4, 8, 16), the panels (16, 32, 64) and the words of four, slices and blocks of k.
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 35, 63, 64, 65, 71, 72, 73, 145)
COLUMNS = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 127, 130)
DEPTHS = (0, 1, 2, 3, 4, 5, 7, 15, 16, 63, 64, 65, 255, 257, 1023, 1025, 2047, 2049, 4096, 4101)


level = level_fixture(DOT_LEVELS)


def bytes_of(rng, shape, dtype):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def exact(a, b, a_zero=0, b_zero=0):
    return (a.astype(np.int64) - a_zero) @ (b.astype(np.int64) - b_zero)


def stored(a, transposed):
    return np.ascontiguousarray(a.swapaxes(-1, -2)) if transposed else a


@pytest.mark.parametrize("trans", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("b_type", BYTES)
@pytest.mark.parametrize("a_type", BYTES)
def test_exact_at_the_edges_of_tiles(level, a_type, b_type, trans, rng):
    trans_a, trans_b = (side == "t" for side in trans)
    for _ in range(25):
        m, n, k = (int(rng.choice(sizes)) for sizes in (ROWS, COLUMNS, DEPTHS))
        a, b = bytes_of(rng, (m, k), a_type), bytes_of(rng, (k, n), b_type)
        left, right = stored(a, trans_a), stored(b, trans_b)
        a_zero, b_zero = int(bytes_of(rng, (), a_type)), bytes_of(rng, n, b_type).astype(I32)
        bias = rng.integers(-(10**6), 10**6, n).astype(I32)
        sizes = f"m {m}, n {n}, k {k}"
        plain = gemm_int8(left, right, trans_a=trans_a, trans_b=trans_b)
        assert plain.dtype == I32
        np.testing.assert_array_equal(plain, exact(a, b), err_msg=sizes)
        full = gemm_int8(left, right, bias, trans_a=trans_a, trans_b=trans_b, a_zero=a_zero,
                         b_zero=b_zero)  # fmt: skip
        np.testing.assert_array_equal(full, exact(a, b, a_zero, b_zero) + bias, err_msg=sizes)


@pytest.mark.parametrize(("a_value", "a_type"), [(-128, S8), (127, S8), (0, U8), (255, U8)])
@pytest.mark.parametrize(("b_value", "b_type"), [(-128, S8), (127, S8), (255, U8)])
def test_extreme_values_do_not_saturate(level, a_value, a_type, b_value, b_type):
    a, b = np.full((7, 1025), a_value, a_type), np.full((1025, 33), b_value, b_type)
    assert (gemm_int8(a, b) == 1025 * a_value * b_value).all()
    for zero in (np.iinfo(a_type).min, np.iinfo(a_type).max):
        got = gemm_int8(a, b, a_zero=int(zero), b_zero=int(np.iinfo(b_type).min))
        assert (got == exact(a, b, int(zero), int(np.iinfo(b_type).min))).all()


def test_sums_wrap_around(level):
    a, b = np.full((2, 70_000), 255, U8), np.full((70_000, 3), 127, S8)
    assert (gemm_int8(a, b) == np.int64(70_000 * 255 * 127 - 2**32)).all()


def test_no_terms_gives_the_bias(level):
    a, b, bias = np.empty((3, 0), S8), np.empty((0, 5), U8), np.arange(5, dtype=I32)
    np.testing.assert_array_equal(gemm_int8(a, b, a_zero=3, b_zero=7), np.zeros((3, 5)))
    np.testing.assert_array_equal(gemm_int8(a, b, bias), np.broadcast_to(bias, (3, 5)))


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (0, 0, 0)])
def test_empty_results(shape):
    m, n, k = shape
    assert gemm_int8(np.ones((m, k), S8), np.ones((k, n), S8)).shape == (m, n)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("a_type", BYTES)
def test_any_strides(level, layout, a_type, rng):
    for m, n, k in ((5, 70, 37), (70, 35, 68), (66, 20, 300)):
        a, b = bytes_of(rng, (m, k), a_type), bytes_of(rng, (k, n), S8)
        expected = exact(a, b, 3, -5)
        out = empty_with_layout((m, n), I32, layout)
        for left, right in ((with_layout(a, layout), b), (a, with_layout(b, layout))):
            got = gemm_int8(left, right, a_zero=3, b_zero=-5, out=out)
            assert got is out
            np.testing.assert_array_equal(out, expected)


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
    for a_type in BYTES:
        a, b = bytes_of(rng, shape_a, a_type), bytes_of(rng, shape_b, U8)
        np.testing.assert_array_equal(
            gemm_int8(a, b, a_zero=2, b_zero=9), exact(a, b, 2, 9), strict=False
        )
        np.testing.assert_array_equal(gemm_int8(a[..., ::-1, :], b), exact(a[..., ::-1, :], b))


@pytest.mark.parametrize("dtype", [F32, S8, U8])
@pytest.mark.parametrize("by_column", [False, True])
def test_scaled_results(level, dtype, by_column, rng):
    m, n, k = 13, 70, 130
    a, b = bytes_of(rng, (m, k), U8), bytes_of(rng, (k, n), S8)
    scale = rng.uniform(1e-5, 1e-3, n).astype(F32) if by_column else 3e-4
    bias, zero = rng.integers(-9999, 9999, n).astype(I32), 7 if dtype is not F32 else 0
    sums = gemm_int8(a, b, bias, a_zero=100)
    scaled = sums.astype(F32) * np.asarray(scale, F32)
    got = gemm_int8(a, b, bias, a_zero=100, scale=scale, out_zero=zero, dtype=dtype)
    if dtype is F32:
        assert_same(got, scaled)
        return
    info = np.iinfo(dtype)
    assert_same(got, np.clip(np.rint(scaled) + zero, info.min, info.max).astype(dtype))
    axis = 1 if by_column else None
    assert_same(requantize(sums, scale, zero, axis=axis, dtype=dtype), got)
    out = np.empty((m, n), dtype)
    assert gemm_int8(a, b, bias, a_zero=100, scale=scale, out_zero=zero, out=out) is out
    assert_same(out, got)


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("b_type", BYTES)
@pytest.mark.parametrize("a_type", BYTES)
def test_packed_operands(level, a_type, b_type, trans_b, rng):
    for m, n, k in ((1, 3, 5), (5, 70, 37), (40, 130, 1100), (73, 65, 2049), (2, 4, 0)):
        a, b = bytes_of(rng, (m, k), a_type), bytes_of(rng, (k, n), b_type)
        bias, zeros = rng.integers(-999, 999, n).astype(I32), bytes_of(rng, n, b_type).astype(I32)
        pack = gemm_pack(stored(b, trans_b), trans_b=trans_b)
        assert pack.shape == (k, n)
        assert pack.dtype == b_type
        np.testing.assert_array_equal(gemm_int8(a, pack), exact(a, b))
        got = gemm_int8(a, pack, bias, a_zero=3, b_zero=zeros)
        np.testing.assert_array_equal(got, exact(a, b, 3, zeros) + bias)
        stack = np.stack([a, a[::-1]])
        np.testing.assert_array_equal(gemm_int8(stack, pack, a_zero=1), exact(stack, b, 1))


def test_a_pack_serves_every_level(rng):
    a, b = bytes_of(rng, (20, 90), S8), bytes_of(rng, (90, 200), S8)
    packs = [gemm_pack(b)]
    with force_isa("generic"):
        packs.append(gemm_pack(b))
        np.testing.assert_array_equal(gemm_int8(a, packs[0]), exact(a, b))
    np.testing.assert_array_equal(gemm_int8(a, packs[1]), exact(a, b))
    with pytest.raises(DTypeError, match="b must be int8 or uint8, got a pack of float32"):
        gemm_int8(a, gemm_pack(b.astype(F32)))
    with pytest.raises(ValueError, match="trans_b must be False where b is packed"):
        gemm_int8(a, packs[0], trans_b=True)
    with pytest.raises(ShapeError, match="the columns of a must equal the rows of b"):
        gemm_int8(a.T, packs[0])


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("a_type", BYTES)
def test_few_rows_on_any_number_of_threads(level, a_type, trans_b, rng):
    """Panels that each thread packs for itself."""
    for m, n, k in ((1, 1500, 900), (3, 1100, 2100), (72, 1050, 300)):
        a, b = bytes_of(rng, (m, k), a_type), bytes_of(rng, (k, n), U8)
        right = stored(b, trans_b)
        got = gemm_int8(a, right, trans_b=trans_b, a_zero=5, b_zero=9)
        np.testing.assert_array_equal(got, exact(a, b, 5, 9))
    assert_same_bits(lambda: gemm_int8(a, right, trans_b=trans_b, scale=1e-3))


@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("b_type", BYTES)
@pytest.mark.parametrize("a_type", BYTES)
def test_few_rows_of_a_large_matrix(level, a_type, b_type, trans_b, rng):
    """B read once, where it lies: around the words, the lanes and the blocks of columns."""
    for m in range(1, 10):
        for _ in range(2):
            n = int(rng.choice((1, 2, 15, 17, 63, 64, 65, 129, 1343, 1345, 2049, 2700, 8200)))
            k = int(rng.choice((1, 2, 3, 4, 5, 15, 16, 17, 63, 65, 127, 129)))
            a, b = bytes_of(rng, (m, k), a_type), bytes_of(rng, (k, n), b_type)
            bias = rng.integers(-999, 999, n).astype(I32)
            zeros = bytes_of(rng, n, b_type).astype(I32)
            right = stored(b, trans_b)
            got = gemm_int8(a, right, bias, trans_b=trans_b, a_zero=7, b_zero=zeros)
            expected = exact(a, b, 7, zeros) + bias
            np.testing.assert_array_equal(got, expected, err_msg=f"m {m}, n {n}, k {k}")
            np.testing.assert_array_equal(gemm_int8(a, right, trans_b=trans_b), exact(a, b))
            scaled = gemm_int8(a[:, ::-1], b, scale=0.5)
            np.testing.assert_array_equal(scaled, F32(0.5) * exact(a[:, ::-1], b).astype(F32))
    stack = bytes_of(rng, (3, 5, 40), a_type), bytes_of(rng, (3, 40, 70), b_type)
    np.testing.assert_array_equal(gemm_int8(*stack, a_zero=3), exact(*stack, 3))


def test_the_bits_do_not_depend_on_threads(level, rng):
    a, b = bytes_of(rng, (300, 400), S8), bytes_of(rng, (3, 400, 130), S8)
    assert_same_bits(lambda: gemm_int8(a, b, a_zero=3, b_zero=1, scale=1e-3))
    x = rng.standard_normal(70_000).astype(F32)
    assert_same_bits(lambda: quantize(x, 0.01, 3))


# ---- numbers and bytes ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", BYTES)
def test_quantize_rounds_and_saturates(level, dtype, rng):
    info = np.iinfo(dtype)
    for size in (0, 1, 3, 15, 16, 17, 65, 1000, 8191, 8193):
        x = (rng.standard_normal(size) * 50).astype(F32)
        zero, scale = 5, 0.5
        expected = np.clip(np.rint(x / F32(scale)) + zero, info.min, info.max).astype(dtype)
        q = quantize(x, scale, zero, dtype=dtype)
        assert_same(q, expected)
        assert_same(dequantize(q, scale, zero), (q.astype(I32) - zero).astype(F32) * F32(scale))
    ties = np.array([0.5, 1.5, 2.5, -0.5, 1e30, -1e30, np.inf, -np.inf, np.nan, -0.0], F32)
    high, low = info.max, info.min
    expected = np.array([0, 2, 2, 0, high, low, high, low, 0, 0])
    assert_same(quantize(ties, 1.0, dtype=dtype), expected.astype(dtype))
    for zero in (int(low), int(high)):
        moved = np.clip([0 + zero, 2 + zero, 2 + zero, zero], low, high).astype(dtype)
        assert_same(quantize(ties[:4], 1.0, zero, dtype=dtype), moved)
        assert quantize(ties[8:9], 1.0, zero, dtype=dtype)[0] == zero


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_channels(level, axis, rng):
    x = (rng.standard_normal((3, 5, 19)) * 20).astype(F32)
    count = x.shape[axis]
    scale = rng.uniform(0.1, 2, count).astype(F32)
    zero = rng.integers(-20, 20, count).astype(I32)
    shape = [1, 1, 1]
    shape[axis] = count
    wide, shift = scale.reshape(shape), zero.reshape(shape)
    expected = np.clip(np.rint(x / wide) + shift, -128, 127).astype(S8)
    q = quantize(x, scale, zero, axis=axis, dtype=S8)
    assert_same(q, expected)
    assert_same(dequantize(q, scale, zero, axis=axis), (q.astype(I32) - shift).astype(F32) * wide)
    sums = rng.integers(-(2**31), 2**31, x.shape).astype(I32)
    expected = np.clip(np.rint(sums.astype(F32) * wide) + shift, -128, 127).astype(S8)
    assert_same(requantize(sums, scale, zero, axis=axis, dtype=S8), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_numbers_and_bytes(level, layout, rng):
    x = with_layout(rng.standard_normal((7, 33)).astype(F32), layout)
    out = empty_with_layout((7, 33), U8, layout)
    assert quantize(x, 0.1, 128, out=out) is out
    assert_same(np.ascontiguousarray(out), quantize(np.ascontiguousarray(x), 0.1, 128))
    back = empty_with_layout((7, 33), F32, layout)
    assert dequantize(out, 0.1, 128, out=back) is back
    assert_same(np.ascontiguousarray(back), dequantize(np.ascontiguousarray(out), 0.1, 128))


# ---- memory and errors ----------------------------------------------------------------------

GUARDED = """
from hotloop.kernels import dequantize, gemm_int8, quantize
rng = np.random.default_rng(0)
for level in LEVELS:
    with force_isa(level):
        for m, n, k in ((1, 3, 5), (2, 67, 9), (4, 17, 300), (7, 1, 13), (30, 65, 16), (3, 5, 1)):
            for at_end in (False, True):
                for trans_a in (False, True):
                    for trans_b in (False, True):
                        a = fenced((k, m) if trans_a else (m, k), np.uint8, at_end)
                        b = fenced((n, k) if trans_b else (k, n), np.int8, at_end)
                        zero, bias = (fenced((n,), np.int32, at_end) for _ in range(2))
                        out = fenced((m, n), np.int32, at_end)
                        few = fenced((m, n), np.uint8, at_end)
                        a[...] = rng.integers(0, 256, a.shape)
                        b[...] = rng.integers(-128, 128, b.shape)
                        zero[...] = rng.integers(-128, 128, n)
                        bias[...] = rng.integers(-99, 99, n)
                        gemm_int8(a, b, bias, trans_a=trans_a, trans_b=trans_b, b_zero=zero,
                                  out=out)
                        gemm_int8(a, b, trans_a=trans_a, trans_b=trans_b, scale=0.01, out=few)
                        left, right = a.T if trans_a else a, b.T if trans_b else b
                        right = right.astype(np.int64) - zero
                        assert (out == left.astype(np.int64) @ right + bias).all(), (level, m, n, k)
                        del left, right
        for size in (1, 15, 16, 17, 50):
            for at_end in (False, True):
                x, q = fenced(size, np.float32, at_end), fenced(size, np.int8, at_end)
                x[...] = 3
                quantize(x, 0.5, out=q)
                dequantize(q, 0.5, out=x)
                assert (q == 6).all() and (x == 3).all()
print("no fence touched")
"""


def test_nothing_is_touched_outside_of_the_arrays():
    run_fenced(GUARDED, DOT_LEVELS)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: gemm_int8(a, a), ShapeError, "the columns of a must equal the rows of b"),
        (lambda a: gemm_int8(a[0], a), ShapeError, "a must have at least 2 axes"),
        (lambda a: gemm_int8(a.astype(F32), a), DTypeError, "a must be int8 or uint8 .*float32"),
        (lambda a: gemm_int8(a, [[1]]), DTypeError, "b must be a numpy.ndarray, got list"),
        (lambda a: gemm_int8(a, a.T, np.ones(2, F32)), DTypeError, "bias must be int32"),
        (lambda a: gemm_int8(a, a.T, np.ones(3, I32)), ShapeError, r"bias must have shape \(2,\)"),
        (lambda a: gemm_int8(a, a.T, a_zero=200), ValueError, r"a_zero must lie in -128..127"),
        (lambda a: gemm_int8(a, a.T, a_zero=1.5), DTypeError, "a_zero must be an integer"),
        (lambda a: gemm_int8(a, a.T, b_zero=np.ones(3, I32)), ShapeError, "b_zero must have shape"),
        (lambda a: gemm_int8(a, a.T, scale=0), ValueError, "scale must be positive and finite"),
        (lambda a: gemm_int8(a, a.T, scale="x"), DTypeError, "scale must be a number"),
        (lambda a: gemm_int8(a, a.T, dtype="int8"), DTypeError, "dtype must be int32, got int8"),
        (lambda a: gemm_int8(a, a.T, scale=1.0, out_zero=3), ValueError, "out_zero must be 0"),
        (lambda a: gemm_int8(a, a.T, out=np.ones((2, 2), F32)), DTypeError, "out must be int32"),
        (
            lambda a: gemm_int8(a, a.T, scale=1.0, dtype=S8, out=np.ones((2, 2), F32)),
            DTypeError,
            "out must be int8, got float32",
        ),
        (lambda a: quantize(a, 1.0), DTypeError, "quantize: x must be float32 .*int8"),
        (lambda a: quantize(a.astype(F32), 1.0, -1), ValueError, "zero_point must lie in 0..255"),
        (lambda a: quantize(a.astype(F32), np.nan), ValueError, "scale must be positive"),
        (lambda a: quantize(a.astype(F32), 1.0, dtype=F32), DTypeError, "dtype must be int8 or"),
        (
            lambda a: quantize(a.astype(F32), np.ones(2, F32), axis=1),
            ShapeError,
            r"scale must have shape \(3,\)",
        ),
        (lambda a: quantize(a.astype(F32), 1.0, axis=2), ShapeError, "axis"),
        (lambda a: requantize(a, 1.0), DTypeError, "requantize: x must be int32"),
        (lambda a: dequantize(a.astype(I32), 1.0), DTypeError, "dequantize: x must be int8"),
    ],
)
def test_errors_say_what_to_do(call, error, words):
    with pytest.raises(error, match=words):
        call(np.ones((2, 3), S8))


def test_out_must_be_apart():
    memory = np.zeros(64, I32)
    a = memory.view(S8)[:16].reshape(4, 4)
    with pytest.raises(OutputError, match="must not overlap a"):
        gemm_int8(a, np.ones((4, 4), S8), out=memory[:16].reshape(4, 4))
    with pytest.raises(OutputError, match="must not overlap x"):
        dequantize(memory.view(S8)[:8], 1.0, out=memory.view(F32)[:8])
