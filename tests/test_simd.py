"""The vector contract at each level: every word against NumPy, functions in ULP, memory edges."""

from __future__ import annotations

import ctypes
import math
import mmap

import numpy as np
import pytest

from hotloop import _core
from reference import SPECIAL_VALUES, assert_same, ulp_error

LANES = {"generic": 16, "avx2": 32, "avx512": 64}  # bytes
INT = {np.float32: np.int32, np.float64: np.int64}
UINT = {np.float32: np.uint32, np.float64: np.uint64}

probe = _core.probe_function


@pytest.fixture(autouse=True)
def _quiet():
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def xyz(dtype, rng):
    """Three operands: every triple of special values, then random numbers; vectors and a tail."""
    special = np.array(SPECIAL_VALUES)
    triples = np.stack(np.meshgrid(special, special, special)).reshape(3, -1)
    numbers = rng.normal(0, 1, (3, 133))
    numbers[:, :20] = np.round(numbers[:, :20] * 3) / 2  # ties, equal numbers
    return np.concatenate([triples, numbers], axis=1).astype(dtype)


def assert_values(actual, expected, zeros=True):
    """Same bits, except that a NaN is a NaN; without `zeros`, 0 and -0 are the same too."""
    nan = np.isnan(expected)
    assert_same(np.isnan(actual), nan)
    actual, expected = np.where(nan, 0, actual), np.where(nan, 0, expected)
    if zeros:
        assert_same(actual, expected)
    else:
        assert (actual == expected).all()


WORDS = {
    "neg": lambda x, y, z: -x,
    "abs": lambda x, y, z: np.abs(x),
    "sqrt": lambda x, y, z: np.sqrt(x),
    "round": lambda x, y, z: np.rint(x),
    "floor": lambda x, y, z: np.floor(x),
    "add": lambda x, y, z: x + y,
    "sub": lambda x, y, z: x - y,
    "mul": lambda x, y, z: x * y,
    "div": lambda x, y, z: x / y,
    "min_or_b": lambda x, y, z: np.where(x < y, x, y),
    "max_or_b": lambda x, y, z: np.where(x > y, x, y),
    "copysign": lambda x, y, z: np.copysign(x, y),
    "less": lambda x, y, z: x < y,
    "less_equal": lambda x, y, z: x <= y,
    "greater": lambda x, y, z: x > y,
    "greater_equal": lambda x, y, z: x >= y,
    "equal": lambda x, y, z: x == y,
    "is_nan": lambda x, y, z: np.isnan(x),
    "mask_and": lambda x, y, z: (x < y) & (y < z),
    "mask_or": lambda x, y, z: (x < y) | (y < z),
    "mask_not": lambda x, y, z: ~(x < y),
    "select": lambda x, y, z: np.where(x < y, y, z),
    "int_select": lambda x, y, z: np.where(x < y, y, z),
    "splat": lambda x, y, z: np.full_like(x, 2.5),
}


@pytest.mark.parametrize("word", WORDS)
def test_words(word, level, xyz):
    expected = WORDS[word](*xyz).astype(xyz.dtype)
    assert_values(probe(word, *xyz), expected)


@pytest.mark.parametrize(("word", "reference"), [("min", np.minimum), ("max", np.maximum)])
def test_min_and_max_give_nan_for_nan(word, reference, level, xyz):
    assert_values(probe(word, *xyz), reference(xyz[0], xyz[1]), zeros=False)


def test_fused_multiply_add(level, dtype, rng):
    x, y, z = rng.normal(0, 1, (3, 200)).astype(dtype)
    wide = [part.astype(np.longdouble) for part in (x, y, z)]
    scale = np.abs(wide[0] * wide[1]) + np.abs(wide[2])
    for word, exact in (
        ("fma", wide[0] * wide[1] + wide[2]),
        ("fnma", wide[2] - wide[0] * wide[1]),
    ):
        assert (np.abs(probe(word, x, y, z) - exact) <= np.finfo(dtype).eps * scale).all()


INTEGERS = {
    "int_add": lambda x, y: x + y,
    "int_sub": lambda x, y: x - y,
    "int_and": lambda x, y: x & y,
    "int_or": lambda x, y: x | y,
    "int_xor": lambda x, y: x ^ y,
    "int_not": lambda x, y: ~x,
    "shift_left": lambda x, y: x << 3,
    "shift_right_signed": lambda x, y: x >> 3,
}


@pytest.mark.parametrize("word", INTEGERS)
def test_integers(word, level, dtype, rng):
    info = np.iinfo(INT[dtype])
    x, y = rng.integers(info.min, info.max, (2, 77), dtype=INT[dtype], endpoint=True)
    y[:9] = x[:9]
    result = probe(word, x.view(dtype), y.view(dtype)).view(INT[dtype])
    assert_same(result, INTEGERS[word](x, y))
    unsigned = probe("shift_right", x.view(dtype)).view(UINT[dtype])
    assert_same(unsigned, x.view(UINT[dtype]) >> UINT[dtype](3))
    assert_same(probe("int_equal", x.view(dtype), y.view(dtype)), (x == y).astype(dtype))
    assert_same(probe("int_less", x.view(dtype), y.view(dtype)), (x < y).astype(dtype))


def test_conversions(level, dtype, rng):
    limit = 2**21 if dtype is np.float32 else 2**50
    whole = rng.integers(-limit, limit, 100).astype(INT[dtype])
    assert_same(probe("to_int", whole.astype(dtype)).view(INT[dtype]), whole)
    assert_same(probe("to_vec", whole.view(dtype)), whole.astype(dtype))


def test_powers_of_two(level, dtype):
    info = np.finfo(dtype)
    n = np.arange(info.minexp, info.maxexp).astype(dtype)
    assert_same(probe("power_of_two", n), np.ldexp(dtype(1), n.astype(int)))
    n = np.arange(1.6 * info.minexp, 1.6 * info.maxexp).round().astype(dtype)
    one = np.full_like(n, 1.25)
    assert_same(probe("scale", one, n), np.ldexp(one, n.astype(int)))


def test_across_the_lanes(level, dtype, rng):
    lanes = LANES[level] // np.dtype(dtype).itemsize
    x, y = np.round(rng.normal(0, 2, (2, 40, lanes))).astype(dtype)
    x[3, lanes // 2] = np.nan
    y[5], y[7] = x[5] + 1, x[7]

    def broadcast(values):
        return np.repeat(values.astype(dtype), lanes).reshape(x.shape)

    assert_values(probe("reduce_max", x), broadcast(x.max(axis=1)), zeros=False)
    assert_values(probe("reduce_min", x), broadcast(x.min(axis=1)), zeros=False)
    assert_values(probe("reduce_add", x), broadcast(x.sum(axis=1)), zeros=False)
    less = x < y
    assert_same(probe("mask_any", x, y), broadcast(less.any(axis=1)))
    assert_same(probe("mask_all", x, y), broadcast(less.all(axis=1)))
    assert_same(probe("mask_bits", x, y), broadcast(less @ (1 << np.arange(lanes))))
    rank = np.broadcast_to(np.arange(lanes, dtype=dtype), x.shape)
    assert_same(probe("iota", x), rank.copy())
    assert_same(probe("iota_int", x), rank.copy())
    assert_values(probe("swap_lanes", x), x[:, np.arange(lanes) ^ 1])


def test_every_word_is_tested():
    mentioned = {*WORDS, *INTEGERS, *FUNCTIONS, "min", "max", "fma", "fnma", "shift_right"}
    mentioned |= {"int_equal", "int_less", "to_int", "to_vec", "power_of_two", "scale", "iota"}
    mentioned |= {"reduce_max", "reduce_min", "reduce_add", "mask_any", "mask_all", "mask_bits"}
    mentioned |= {"iota_int", "swap_lanes", "normal_cdf"}
    assert mentioned == set(_core.probe_names)


# ---- elementary functions -----------------------------------------------------------------------

_erf = np.vectorize(math.erf, otypes=[np.float64])
FUNCTIONS = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "erf": lambda x: _erf(x.astype(np.float64)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
ULP = {np.float32: 2.0, np.float64: 4.0}


def _wide(dtype):
    """A type with enough digits to judge by; float64 judges itself where longdouble is no wider."""
    return np.float64 if dtype is np.float32 else np.longdouble


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_in_ulp(name, level, dtype, rng):
    info = np.finfo(dtype)
    sizes = np.exp(rng.uniform(np.log(float(info.tiny)) - 20, np.log(float(info.max)), 3000))
    parts = [
        sizes * rng.choice([-1, 1], sizes.size),
        rng.uniform(-1, 1, 3000),
        rng.uniform(-10, 10, 3000),
        rng.uniform(0.5, 2, 2000),
        rng.uniform(-110, 95, 2000),
        rng.uniform(-750, 712, 2000),
    ]
    x = np.concatenate(parts).astype(dtype)
    if name == "log":
        x = np.abs(x)
    elif name == "log1p":
        x = np.where(x < -1, -1 / x, x)
    expected = FUNCTIONS[name](x.astype(_wide(dtype)))
    error = ulp_error(probe(name, x), expected)
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    assert error[worst] <= ULP[dtype], f"{name}({x[worst]!r}): {error[worst]} ULP"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_at_special_values(name, level, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 3 * tiny, -3 * tiny, 1.0, -1.0, -2.0], dtype)
    expected = FUNCTIONS[name](x.astype(np.float64)).astype(dtype)
    result = probe(name, x)
    assert_values(np.isfinite(result).astype(dtype), np.isfinite(expected).astype(dtype))
    near = np.isfinite(expected)
    assert np.allclose(result[near], expected[near], rtol=1e-6, atol=0)
    assert_values(result[~near], expected[~near])
    assert_same(np.signbit(result[:2]), np.signbit(expected[:2]))  # -0 stays -0 where f is odd
    odd = name in ("expm1", "log1p", "tanh", "erf")
    if odd and dtype is np.float64:  # a denormal is its own image
        rounded = x[5:7] * (2 / math.sqrt(math.pi) if name == "erf" else 1)
        assert_same(result[5:7], rounded)


def test_normal_distribution(level, dtype, rng):
    x = np.concatenate([rng.normal(0, 3, 3000), [0, -0.0, 5.6, -5.6, 5.7, -5.7, 1e30, -1e30]])
    x = np.concatenate([x, [np.inf, -np.inf]]).astype(dtype)
    expected = 0.5 * (1 + _erf(x.astype(np.float64) / math.sqrt(2)))
    assert (np.abs(probe("normal_cdf", x) - expected) <= 1.5 * np.finfo(dtype).eps).all()
    assert np.isnan(probe("normal_cdf", np.full(3, np.nan, dtype))).all()


def test_where_exp_overflows_and_vanishes(level, dtype):
    """The last finite and the last nonzero result, and their neighbours."""
    info = np.finfo(dtype)
    for edge in (math.log(float(info.max)), math.log(float(info.smallest_subnormal)) - math.log(2)):
        x = np.array([edge], dtype)
        x = np.array([np.nextafter(x[0], dtype(s)) for s in (-np.inf, np.inf)] + [x[0]], dtype)
        with np.errstate(all="ignore"):
            expected = np.exp(x.astype(np.longdouble))
        assert (ulp_error(probe("exp", x), expected) <= ULP[dtype]).all()
    far = np.array([1e30, -1e30, info.max, info.min], dtype)
    assert_same(probe("exp", far), np.array([np.inf, 0, np.inf, 0], dtype))
    assert_same(probe("expm1", far), np.array([np.inf, -1, np.inf, -1], dtype))
    assert_same(probe("sigmoid", far), np.array([1, 0, 1, 0], dtype))


# ---- memory -----------------------------------------------------------------------------------


class Guarded:
    """A readable page between two that end the process when touched."""

    def __init__(self):
        page = mmap.PAGESIZE
        self.map = mmap.mmap(-1, 3 * page)
        self.first = ctypes.addressof(ctypes.c_char.from_buffer(self.map)) + page
        self.end = self.first + page
        libc = ctypes.CDLL(None, use_errno=True)
        self.protect = libc.mprotect
        self.protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        if self.protect(self.first - page, page, 0) or self.protect(self.end, page, 0):
            pytest.skip("this system does not let a page be protected")

    def array(self, address, dtype, count):
        kind = {"f": ctypes.c_float, "d": ctypes.c_double, "B": ctypes.c_uint8}[
            np.dtype(dtype).char
        ]
        return np.ctypeslib.as_array((kind * count).from_address(address))

    def close(self):
        self.protect(self.first - mmap.PAGESIZE, 3 * mmap.PAGESIZE, 3)


@pytest.fixture
def guard():
    page = Guarded()
    yield page
    page.close()


def test_memory_words_touch_only_their_elements(level, dtype, guard):
    double = dtype is np.float64
    item = np.dtype(dtype).itemsize
    lanes = LANES[level] // item
    whole = np.zeros(lanes, dtype)
    for count in range(lanes + 1):
        values = np.arange(1, lanes + 1, dtype=dtype)
        expected = np.where(np.arange(lanes) < count, values, dtype(0))
        for address in (guard.first, guard.end - count * item):  # against both forbidden pages
            area = guard.array(address, dtype, count)
            area[:] = values[:count]
            got = _core.probe_memory("load_n", address, whole.ctypes.data, double, 1, count)
            assert got == lanes
            assert_same(whole, expected)
            area[:] = 77
            _core.probe_memory("store_n", values.ctypes.data, address, double, 1, count)
            assert_same(area, values[:count])
        for stride in (1, 2, 3, -1, -2, 0):
            span = (count - 1) * abs(stride) + 1 if count else 0
            area = guard.array(guard.end - span * item, dtype, span)
            area[:] = np.arange(span)
            base = guard.end - span * item + (span - 1) * item * (stride < 0 and count > 0)
            _core.probe_memory("load_strided", base, whole.ctypes.data, double, stride, count)
            steps = area[:: stride or 1][:count] if stride else np.repeat(area[:1], count)
            assert_same(whole, np.concatenate([steps, np.zeros(lanes - count, dtype)]))
            if stride == 0:
                continue
            area[:] = 77
            _core.probe_memory("store_strided", values.ctypes.data, base, double, stride, count)
            assert_same(area[::stride][:count].copy(), values[:count])
            kept = np.ones(span, bool)
            kept[::stride][:count] = False
            assert (area[kept] == 77).all()
        for address in (guard.first, guard.end - count):
            area = guard.array(address, np.uint8, count)
            area[:] = 250 - np.arange(count)
            _core.probe_memory("load_u8_n", address, whole.ctypes.data, double, 1, count)
            tail = np.zeros(lanes - count, dtype)
            assert_same(whole, np.concatenate([area.astype(dtype), tail]))
            area[:] = 77
            wide = values + 254  # the low byte counts
            _core.probe_memory("store_u8_n", wide.ctypes.data, address, double, 1, count)
            assert_same(area.copy(), wide[:count].astype(np.int64).astype(np.uint8))


def test_stream_writes_around_the_caches(level, dtype, guard):
    lanes = LANES[level] // np.dtype(dtype).itemsize
    values = np.arange(1, lanes + 1, dtype=dtype)
    address = guard.end - 64  # aligned for every level
    _core.probe_memory("stream", values.ctypes.data, address, dtype is np.float64)
    assert_same(guard.array(address, dtype, lanes).copy(), values)


# ---- ceilings ---------------------------------------------------------------------------------


def test_probes_of_the_machine(level):
    assert _core.probe_fma(1e6) >= 1e6
    assert _core.probe_fma_peak(0.001) > 0
    assert _core.probe_fma_peak(0.001, True) > 0
    memory = np.zeros(2 * 32768 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    array = memory[start : start + 65536].view(np.float32)
    out = np.full(65536 // 4 + 16, 7, np.float32)
    first = -out.ctypes.data % 64 // 4
    out = out[first : first + 65536 // 4]
    assert _core.probe_traffic("update", array) == 65536
    assert (array == 1).all()
    _core.probe_traffic("read", array)
    for name in ("copy", "copy_nt"):
        out[:] = 7
        _core.probe_traffic(name, array, out)
        assert (out == 1).all()
    _core.probe_traffic("add_nt", array, out, np.full_like(array, 2))
    assert (out == 3).all()
    with pytest.raises(ValueError, match="multiple of 32768 bytes, got 16"):
        _core.probe_traffic("read", np.zeros(4, np.float32))
