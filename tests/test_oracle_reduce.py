"""Reductions of tensors against PyTorch: values, gradients, options, ties and NaN."""

from __future__ import annotations

import warnings
import zlib

import numpy as np
import pytest

import hotloop as hl

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # its threads wait in loops, which is slow beside other work


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


def same(got, want, bound):
    assert got.shape == tuple(want.shape)
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=bound, atol=bound)


def check(call, array, dtype=np.float64):
    """call(tensor, library) on both sides: the value, and the gradient of it."""
    bound = 1e-9 if dtype is np.float64 else 1e-4
    x, y = hl.tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the degrees of freedom
        got, want = call(x, hl), call(y, torch)
    if isinstance(want, tuple):
        for one, other in zip(got, want):
            same(one, other, bound)
        got, want = got[0], want[0]
    same(got, want, bound)
    dy = np.linspace(0.5, 2, got.numel()).reshape(got.shape).astype(array.dtype)
    got.backward(dy)
    want.backward(torch.tensor(dy))
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=bound, atol=bound)


AXES = [0, 1, -1, (0, 2), (0, 1, 2), None]


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", AXES, ids=str)
@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "logsumexp", "amax", "amin"])
def test_reduction(name, dim, keepdim, dtype, rng):
    x = rng.standard_normal((3, 4, 7)).astype(dtype)
    every = tuple(range(3)) if dim is None and name != "sum" else dim
    check(lambda t, n: getattr(n, name)(t, dim=every, keepdim=keepdim), x, dtype)
    check(lambda t, n: getattr(t, name)(dim=every, keepdim=keepdim), x[:, :, ::2], dtype)


@pytest.mark.parametrize("correction", [0, 1, 2, 2.5])
@pytest.mark.parametrize("name", ["var", "std"])
def test_correction(name, correction, rng):
    x = rng.standard_normal((5, 6))
    check(lambda t, n: getattr(n, name)(t, 1, correction=correction), x)
    check(lambda t, n: getattr(t, name)(correction=correction), x)
    check(lambda t, n: getattr(t, name)(1, False), x)
    check(lambda t, n: getattr(t, name)(False), x)
    check(lambda t, n: getattr(t, name)(unbiased=False), x)
    check(lambda t, n: getattr(n, name + "_mean")(t, 0, correction=correction, keepdim=True), x)


@pytest.mark.parametrize("dim", [0, 1, -1, (0, 1), None], ids=str)
@pytest.mark.parametrize("p", ["fro", 2, 1, 3, 0.5, 1.5, -1, float("inf"), -float("inf"), 0])
def test_norm(p, dim, dtype, rng):
    x = (rng.uniform(0.2, 2, (4, 5)) * rng.choice([-1, 1], (4, 5))).astype(dtype)
    if p == 0:  # a count, without gradient in PyTorch
        same(hl.norm(hl.tensor(x), p, dim), torch.norm(torch.tensor(x), p, dim), 0)
        return
    check(lambda t, n: n.norm(t, p, dim), x, dtype)
    check(lambda t, n: t.norm(p=p, dim=dim, keepdim=True), x, dtype)


def test_norm_at_zero():
    for p in (1, 2, 3):
        check(lambda t, n, p=p: n.norm(t, p, 1), np.array([[0.0, 0.0], [0.0, 3.0]]))
    check(lambda t, n: n.norm(t), np.zeros(4))


@pytest.mark.parametrize("dim", [0, 1, -1, None], ids=str)
def test_prod(dim, dtype, rng):
    x = rng.uniform(0.5, 2, (3, 4, 5)).astype(dtype)
    x[0, 1, 2] = 0
    how = {} if dim is None else {"dim": dim}
    check(lambda t, n: n.prod(t, **how), x, dtype)
    if dim is not None:
        check(lambda t, n: t.prod(dim, keepdim=True), x, dtype)


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_cumsum(dim, dtype, rng):
    check(lambda t, n: n.cumsum(t, dim), rng.standard_normal((3, 4, 5)).astype(dtype), dtype)
    check(lambda t, n: n.cumsum(t, 0), np.array(2.0, dtype), dtype)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_places(name, dtype, rng):
    x = rng.integers(0, 4, (4, 5, 20)).astype(dtype)
    x[1, 2, 3] = x[1, 2, 9] = np.nan
    for how in ({}, {"dim": 0}, {"dim": 1}, {"dim": -1, "keepdim": True}, {"keepdim": True}):
        got, want = (
            getattr(m, name)(f(x), **how) for m, f in ((hl, hl.tensor), (torch, torch.tensor))
        )
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got.numpy(), want.numpy())
        got = getattr(hl.tensor(x), name)(**how)
        np.testing.assert_array_equal(got.numpy(), want.numpy())


@pytest.mark.parametrize("name", ["max", "min"])
def test_values_and_places(name, rng):
    x = rng.integers(0, 4, (4, 5)).astype(np.float64)
    x += np.arange(20).reshape(4, 5) * 1e-3  # no ties: PyTorch leaves open which one is found
    check(lambda t, n: tuple(getattr(n, name)(t, 1)), x)
    check(lambda t, n: tuple(getattr(t, name)(0, keepdim=True)), x)


def test_ties_share_the_gradient():
    x = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    for name in ("amax", "amin"):
        check(lambda t, n, name=name: getattr(n, name)(t, 1), x)
    check(lambda t, n: n.norm(t, float("inf"), 1), x)


def test_logsumexp_of_infinities():
    inf = np.inf
    x = np.array([[-inf, -inf], [-inf, 1], [1e4, 1e4], [-1e4, -1e4]])
    check(lambda t, n: n.logsumexp(t, 1)[1:], x)
    got = hl.logsumexp(hl.tensor(x), 1).numpy()
    np.testing.assert_array_equal(got, torch.logsumexp(torch.tensor(x), 1).numpy())
