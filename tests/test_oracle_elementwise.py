"""Functions of one or two tensors against PyTorch: values, gradients, NaN, ties, errors."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

import hotloop as hl

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # its threads wait in loops, which is slow beside other work


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


def check(ours, theirs, *arrays, dtype=np.float64):
    """Values and the gradients of all arrays."""
    xs = [hl.tensor(a, requires_grad=True) for a in arrays]
    ys = [torch.tensor(a, requires_grad=True) for a in arrays]
    got, want = ours(*xs), theirs(*ys)
    bound = 1e-9 if dtype is np.float64 else 1e-4
    assert got.shape == tuple(want.shape)
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=bound, atol=bound)
    dy = np.linspace(0.5, 2, got.numel()).reshape(got.shape).astype(arrays[0].dtype)
    got.backward(dy)
    want.backward(torch.tensor(dy))
    for x, y in zip(xs, ys):
        np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=bound, atol=bound)


UNARY = (
    "abs", "cos", "erf", "exp", "expm1", "log", "log1p", "neg", "reciprocal", "rsqrt", "sigmoid",
    "sign", "sin", "sqrt", "square", "tanh",
)  # fmt: skip
EDGES = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e30, -1e30, 0.3]


@pytest.mark.parametrize("name", UNARY)
def test_unary(name, dtype, rng):
    x = rng.uniform(0.1, 3, (3, 40)).astype(dtype)
    check(getattr(hl, name), getattr(torch, name), x, dtype=dtype)
    check(lambda t: getattr(t, name)(), lambda t: getattr(t, name)(), x[:, ::2], dtype=dtype)
    edges = np.array(EDGES, dtype)
    np.testing.assert_allclose(
        getattr(hl, name)(hl.tensor(edges)).numpy(),
        getattr(torch, name)(torch.tensor(edges)).numpy(),
        rtol=1e-6,
    )


BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "pow")


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 1, 5), (4, 1)), ((), (2, 3))], ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary(name, shapes, dtype, rng):
    a, b = (np.asarray(rng.uniform(0.2, 2, shape), dtype) for shape in shapes)
    check(getattr(hl, name), getattr(torch, name), a, b, dtype=dtype)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_ties_and_nan(name):
    a = np.array([1.0, 2.0, np.nan, 3.0, -0.0])
    b = np.array([1.0, 3.0, 1.0, np.nan, 0.0])
    check(getattr(hl, name), getattr(torch, name), a, b)


@pytest.mark.parametrize("power", [0, 0.5, 1, 2, 3, -1, -2, 2.5, 0.0, 1e3])
def test_power_of_a_number(power, dtype, rng):
    x = rng.uniform(0.3, 1.5, (4, 5)).astype(dtype)
    check(lambda t: t**power, lambda t: t**power, x, dtype=dtype)
    check(lambda t: power**t, lambda t: power**t, x, dtype=dtype)


def test_power_at_zero():
    a, b = np.array([0.0, 0.0, 2.0, -1.0, -2.0]), np.array([0.0, 2.0, 0.0, 2.0, 3.0])
    check(hl.pow, torch.pow, a, b)
    for power in (2, 3, 0, 1, 1.5):
        check(lambda t, p=power: t**p, lambda t, p=power: t**p, np.array([0.0, 2.0, 1.0]))


def test_integer_powers():
    x = np.array([0, 1, 2, -1, -3])
    for power in (0, 1, 2, 5):
        np.testing.assert_array_equal((hl.tensor(x) ** power).numpy(), x**power)
    with pytest.raises(RuntimeError):
        torch.tensor(x) ** -1
    with pytest.raises(ValueError, match="integers to negative integer powers are not allowed"):
        hl.tensor(x) ** -1
    y = np.array([-1, -2, -1, -3, -2])
    expected = torch.pow(torch.tensor(x), torch.tensor(y)).numpy()
    np.testing.assert_array_equal(hl.pow(hl.tensor(x), hl.tensor(y)).numpy(), expected)


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (None, 0.5), (-0.5, None), (0.5, -0.5), (0, 1)])
def test_clamp(bounds, dtype, rng):
    x = np.concatenate([rng.normal(0, 1, 30), [0.5, -0.5, 0.0]]).astype(dtype)
    check(lambda t: t.clamp(*bounds), lambda t: t.clamp(*bounds), x, dtype=dtype)
    edges = np.array([np.nan, np.inf, -np.inf], dtype)
    np.testing.assert_array_equal(
        hl.clamp(hl.tensor(edges), *bounds).numpy(),
        torch.clamp(torch.tensor(edges), *bounds).numpy(),
    )


def test_clamp_by_tensors(rng):
    x, low, high = rng.normal(0, 1, (4, 30)), rng.normal(-1, 1, 30), rng.normal(1, 1, (4, 1))
    check(hl.clamp, torch.clamp, x, low, high)
    check(lambda t, m: t.clamp(min=m), lambda t, m: t.clamp(min=m), x, low)
    check(lambda t, m: t.clamp(max=m), lambda t, m: t.clamp(max=m), x, high)
    y = rng.integers(-5, 5, 20)
    np.testing.assert_array_equal(hl.tensor(y).clamp(-2, 2).numpy(), y.clip(-2, 2))


def test_where(rng):
    condition = rng.integers(0, 2, (3, 1, 5)).astype(bool)
    a, b = rng.normal(0, 1, (4, 1)), rng.normal(0, 1, (3, 4, 5))
    ours, theirs = hl.tensor(condition), torch.tensor(condition)
    check(lambda x, y: hl.where(ours, x, y), lambda x, y: torch.where(theirs, x, y), a, b)
    check(lambda x, y: x.where(ours, y), lambda x, y: x.where(theirs, y), b, a)
    check(lambda x: hl.where(ours, x, 2.0), lambda x: torch.where(theirs, x, 2.0), b)


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons(name, dtype, rng):
    a, b = rng.integers(0, 3, (3, 1, 7)).astype(dtype), rng.integers(0, 3, (4, 1)).astype(dtype)
    a[0, 0, 0] = np.nan
    for other in (b, 1, 1.0, np.nan, True):
        given = (torch.tensor(other), hl.tensor(other)) if other is b else (other, other)
        got = getattr(hl, name)(hl.tensor(a), given[1])
        assert got.dtype == np.bool_
        expected = getattr(torch, name)(torch.tensor(a), given[0]).numpy()
        np.testing.assert_array_equal(got.numpy(), expected)
    whole = np.array([1, 2, 3])
    got = getattr(hl.tensor(whole), name)(2)
    np.testing.assert_array_equal(got.numpy(), getattr(torch.tensor(whole), name)(2).numpy())
