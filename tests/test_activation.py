"""Activations: values, gradients, layouts, special values, in place, threads, messages."""

from __future__ import annotations

import math

import numpy as np
import pytest

import hotloop as hl
from forced import LEVELS
from hotloop import _core, kernels
from hotloop.benchmarks import accuracy
from reference import (
    EDGE_SIZES,
    LAYOUTS,
    assert_close,
    assert_gradient,
    assert_same,
    assert_same_bits,
    empty_with_layout,
    guarded,
    with_layout,
)

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


REFERENCES = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0, x),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
}
# Limits at (inf, -inf).
LIMITS = {
    "relu": (np.inf, 0),
    "leaky_relu": (np.inf, -np.inf),
    "elu": (np.inf, -1),
    "gelu": (np.inf, 0),
    "gelu_tanh": (np.inf, 0),
    "silu": (np.inf, 0),
    "sigmoid": (1, 0),
    "tanh": (1, -1),
    "softplus": (np.inf, 0),
    "hardswish": (np.inf, 0),
}
SAVED = {name: saved for name, _, saved in _core.activations}
NAMES = tuple(SAVED)
WITH_PARAMETER = {
    "leaky_relu": lambda x, p: np.where(x > 0, x, p * x),
    "elu": lambda x, p: np.where(x > 0, x, p * np.expm1(np.minimum(x, 0))),
    "softplus": lambda x, p: np.logaddexp(0, p * x) / p,
}


def _call(name, x, *parameter):
    """The value and a function that gives the gradient for dy."""
    y = getattr(kernels, name)(x, *parameter)
    kept = x if SAVED[name] == "x" else y
    return y, lambda dy: getattr(kernels, name + "_backward")(dy, kept, *parameter)


def test_every_activation_has_a_reference():
    assert set(REFERENCES) == set(LIMITS) == set(NAMES)
    assert set(WITH_PARAMETER) == {name for name, default, _ in _core.activations if default}


@pytest.mark.parametrize("name", NAMES)
def test_values_at_each_level(name, level, dtype, rng):
    for size in (*EDGE_SIZES, 5000):
        x = rng.normal(0, 3, size).astype(dtype)
        y = getattr(kernels, name)(x)
        assert y.dtype == dtype
        assert_close(y, REFERENCES[name](x.astype(np.float64)), 2, kind="function")


@pytest.mark.parametrize("name", NAMES)
def test_small_and_large_arguments(name, level, dtype, rng):
    sizes = 10.0 ** rng.uniform(-30, 4, 400)
    x = (sizes * rng.choice([-1, 1], 400)).astype(dtype)
    expected = REFERENCES[name](x.astype(np.float64))
    scale = np.maximum(np.abs(x.astype(np.float64)), np.abs(expected))
    assert_close(getattr(kernels, name)(x), expected, 3, kind="function", scale=scale)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_by_differences(name, level, rng):
    x = rng.normal(0, 2, (5, 7))
    x[np.abs(x) < 1e-3] += 0.1  # away from the corners
    x[np.abs(np.abs(x) - 3) < 1e-3] += 0.1
    dy = rng.normal(0, 1, x.shape)
    _, gradient = _call(name, x)
    assert_gradient(gradient(dy), lambda: getattr(kernels, name)(x), x, dy)


@pytest.mark.parametrize("name", sorted(WITH_PARAMETER))
@pytest.mark.parametrize("parameter", [0.3, 1.7])
def test_parameter(name, parameter, level, rng):
    x = rng.normal(0, 2, 50)
    x[np.abs(x) < 1e-3] += 0.1
    y, gradient = _call(name, x, parameter)
    assert_close(y, WITH_PARAMETER[name](x, parameter), 3, kind="function")
    dy = rng.normal(0, 1, x.shape)
    assert_gradient(gradient(dy), lambda: getattr(kernels, name)(x, parameter), x, dy)


@pytest.mark.parametrize("name", NAMES)
def test_special_values(name, level, dtype):
    for repeat in (1, 16):  # alone, and through whole vectors
        x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0] * repeat, dtype)
        y, gradient = _call(name, x)
        zero = REFERENCES[name](np.float64(0))
        expected = np.array([np.nan, *LIMITS[name], zero, zero] * repeat)
        assert_close(y, expected, kind="function")
        got = gradient(np.ones_like(x))[:3]
        if name not in ("relu", "leaky_relu", "elu"):  # those only ask on which side of 0 y lies
            assert np.isnan(got[0])
        assert np.isnan(gradient(np.full_like(x, np.nan))[1])
        assert got[1] == (0.0 if name in ("sigmoid", "tanh") else 1.0)
        assert got[2] == (dtype(0.01) if name == "leaky_relu" else 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_layouts(name, level, dtype, rng):
    x = rng.normal(0, 2, (3, 5, 37)).astype(dtype)
    dy = rng.normal(0, 2, x.shape).astype(dtype)
    y, gradient = _call(name, x)
    dx = gradient(dy)
    kept = x if SAVED[name] == "x" else y
    for layout in LAYOUTS:
        for out_layout in ("contiguous", layout):
            out = empty_with_layout(x.shape, dtype, out_layout)
            assert getattr(kernels, name)(with_layout(x, layout), out=out) is out
            assert_same(np.ascontiguousarray(out), y, layout)
            out = empty_with_layout(x.shape, dtype, out_layout)
            backward = getattr(kernels, name + "_backward")
            assert backward(with_layout(dy, layout), kept, out=out) is out
            assert_same(np.ascontiguousarray(out), dx, layout)


def test_result_keeps_the_order_of_the_axes(rng):
    image = rng.normal(0, 1, (2, 4, 5, 3)).transpose(0, 3, 1, 2)  # channels-last seen as NCHW
    assert kernels.relu(image).strides == image.strides
    assert kernels.relu_backward(image, image).strides == image.strides
    assert kernels.relu(np.asfortranarray(rng.normal(0, 1, (4, 5)))).flags.f_contiguous


def test_in_place_and_nothing_outside(level, dtype, rng):
    for size in EDGE_SIZES:
        x, check = guarded(size, dtype)
        x[...] = rng.normal(0, 2, size)
        expected = kernels.gelu(x)
        assert kernels.gelu(x, out=x) is x
        assert_same(x, expected)
        check()
        dy, check = guarded(size, dtype)
        dy[...] = rng.normal(0, 2, size)
        expected = kernels.relu_backward(dy, x)
        kernels.relu_backward(dy, x, out=dy)
        assert_same(dy, expected)
        check()


@pytest.mark.parametrize("name", ["relu", "gelu", "hardswish"])
def test_same_bits_wherever_arrays_begin(name, level, dtype, rng):
    """Whole lines are written from the first one of the result on, masked parts beside them."""
    for size in (300, 301, 2048 + 77):
        x = rng.normal(0, 2, size).astype(dtype)
        expected, gradient = _call(name, x)
        expected_dx = gradient(np.ones_like(x))
        for shift, out_shift in ((1, 1), (4, 4), (15, 2), (0, 7), (3, 0)):
            source = np.zeros(size + 16, dtype)[shift : shift + size]
            source[:] = x
            memory = np.full(size + 32, 7.0, dtype)
            out = memory[out_shift : out_shift + size]
            assert_same(getattr(kernels, name)(source, out=out), expected)
            saved = out.copy() if name == "relu" else source
            dx = getattr(kernels, f"{name}_backward")(np.ones_like(x), saved, out=out)
            assert_same(dx, expected_dx)
            assert (memory[:out_shift] == 7).all()
            assert (memory[out_shift + size :] == 7).all()


def test_empty_scalar_and_many_axes(dtype):
    assert kernels.relu(np.zeros((3, 0, 4), dtype)).shape == (3, 0, 4)
    assert kernels.relu(np.array(-2, dtype)).shape == ()
    assert kernels.relu(np.array(2, dtype)) == 2
    x = np.arange(-32, 32, dtype=dtype).reshape((2,) * 6)
    assert_same(kernels.relu(x[::-1, :, ::-1]), np.maximum(x[::-1, :, ::-1], 0).copy())


def test_large_output_around_the_caches(level, rng):
    """From 24 MB on the output is written by streaming stores, from any alignment."""
    x = rng.normal(0, 1, 3_300_001).astype(np.float32)
    expected = np.maximum(x, 0)
    assert_same(kernels.relu(x), expected)
    out = np.full(x.size + 5, 77, np.float32)
    kernels.relu(x[1:], out=out[3:-3])
    assert_same(out[3:-3], expected[1:])
    assert (out[:3] == 77).all()
    assert (out[-3:] == 77).all()


def test_same_bits_for_any_number_of_threads(dtype, rng):
    x = rng.normal(0, 2, (301, 1003)).astype(dtype)
    assert_same_bits(lambda: kernels.gelu(x))
    assert_same_bits(lambda: kernels.tanh_backward(x, x.T.copy().T))
    assert_same_bits(lambda: kernels.silu(x[::2, ::3]))


def test_messages():
    x = np.zeros(4, np.float32)
    with pytest.raises(hl.DTypeError, match=r"relu: x must be float32 or float64.*int64"):
        kernels.relu(np.zeros(4, np.int64))
    with pytest.raises(hl.DTypeError, match=r"gelu: x must be a numpy.ndarray, got list"):
        kernels.gelu([1.0])
    with pytest.raises(hl.ShapeError, match=r"relu: out must have shape \(4,\), got \(5,\)"):
        kernels.relu(x, out=np.zeros(5, np.float32))
    with pytest.raises(hl.DTypeError, match=r"relu: out must be float32, got float64"):
        kernels.relu(x, out=np.zeros(4))
    with pytest.raises(hl.ShapeError, match=r"tanh_backward: y must have shape \(4,\), got \(3,\)"):
        kernels.tanh_backward(x, x[:3])
    with pytest.raises(hl.DTypeError, match=r"silu_backward: dy and x must have the same dtype"):
        kernels.silu_backward(x, np.zeros(4))
    with pytest.raises(ValueError, match=r"leaky_relu: negative_slope must be at least 0, got -"):
        kernels.leaky_relu(x, -0.5)
    with pytest.raises(ValueError, match=r"softplus: beta must be positive"):
        kernels.softplus(x, 0.0)
    both = np.zeros(9, np.float32)
    with pytest.raises(hl.OutputError, match=r"relu: out must not overlap x"):
        kernels.relu(both[:8], out=both[1:])
    frozen = np.zeros(4, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(hl.OutputError, match=r"relu: out must be writable"):
        kernels.relu(x, out=frozen)
    assert_same(kernels.relu(frozen), x)
    with pytest.raises(hl.DTypeError):
        kernels.relu(x.astype(">f4"), out=np.zeros(4, ">f4"))


# ------------------------------------------------------------------------------------------
# Accuracy over all of float32, and the tails of float64.

ULP = {"sigmoid": 2.0, "tanh": 2.0, "silu": 2.0, "softplus": 2.0, "gelu": 2.0}


@pytest.mark.parametrize("name", ULP)
def test_ulp_over_all_of_float32(name):
    x = accuracy.sweep()
    with np.errstate(all="ignore"):
        expected = accuracy.REFERENCES[name](x.astype(np.float64))
    for level in LEVELS:
        try:
            with kernels.force_isa(level):
                actual = getattr(kernels, name)(x)
        except ValueError:  # this CPU lacks it
            continue
        error = accuracy.ulp_error(actual, expected)
        worst = int(np.argmax(error))
        assert error[worst] <= ULP[name], f"{level}: {name}({x[worst]!r}): {error[worst]} ULP"


def test_gelu_tanh_over_all_of_float32(level):
    """As its docstring has it; below the seam the argument's rounding is multiplied by exp."""
    x = accuracy.sweep()
    wide = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        argument = np.longdouble(2 / np.pi) ** 0.5 * (wide + np.longdouble("0.044715") * wide**3)
        expected = np.where(x == -np.inf, 0, wide / (1 + np.exp(-2 * argument))).astype(np.float64)
    actual = kernels.gelu_tanh(x)
    right = x >= (-4.6 if "avx512" in level else -1)
    assert accuracy.ulp_error(actual, expected)[right].max() <= 3
    assert np.abs(actual[~right] - expected[~right]).max() < 1e-7


@pytest.mark.parametrize("name", NAMES)
def test_a_lane_does_not_depend_on_its_neighbours(name, level, rng):
    """Near 0 and far from it other formulas may be at work; both sides of the seams, mixed."""
    x = np.concatenate([rng.normal(0, 2, 300), rng.normal(0, 40, 300), [np.nan, np.inf, -np.inf]])
    seams = np.concatenate([k * np.array([1.0, -1, 0.5, -0.5, 0.3125, -0.3125]) for k in range(17)])
    x = rng.permutation(np.concatenate([x, seams, seams * 1.0000001])).astype(np.float32)
    y, gradient = _call(name, x)
    dx = gradient(np.ones_like(x))
    for i in range(x.size):
        one, slope = _call(name, x[i : i + 1].copy())
        assert_same(one, y[i : i + 1])
        assert_same(slope(np.ones(1, np.float32)), dx[i : i + 1])
    finite = np.isfinite(x)
    expected = REFERENCES[name](x[finite].astype(np.float64))
    scale = np.maximum(np.abs(x[finite].astype(np.float64)), np.abs(expected))
    assert_close(y[finite], expected, 3, kind="function", scale=scale)


def test_tails_of_float64(level, rng):
    x = -rng.uniform(0, 37, 4000)
    # The reference rounds the argument of erfc, which multiplies that by x * x.
    expected = 0.5 * x * np.vectorize(math.erfc)(-x / math.sqrt(2))
    error = np.abs(kernels.gelu(x) / expected - 1)
    assert (error <= 2.3e-16 * (8 + x * x)).all()
    assert_same(kernels.gelu(-x), -x - np.abs(kernels.gelu(x)))
    x = -rng.uniform(0, 740, 4000)
    expected = (x.astype(np.longdouble) * np.exp(x.astype(np.longdouble))) / (
        1 + np.exp(x.astype(np.longdouble))
    )
    far = np.abs(expected) > 1e-300
    assert (np.abs(kernels.silu(x) / expected - 1)[far] <= 1e-15).all()
