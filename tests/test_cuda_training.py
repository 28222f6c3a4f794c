"""Reductions, losses, dropout and whole training steps on an emulated GPU: as on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import cuda_library
import hotloop as hl
from hotloop import _core
from hotloop.device_array import DeviceArray


@pytest.fixture(autouse=True, scope="module")
def device() -> Iterator[None]:
    with cuda_library.cuda_devices():
        yield


def put(array: np.ndarray) -> DeviceArray:
    return _core.cuda_array(np.asarray(array), 0)


def get(array: DeviceArray) -> np.ndarray:
    return array._to_host()


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "var", "logsumexp", "prod"])
def test_reductions(rng, dtype, name):
    function = getattr(hl.kernels, name)
    x = rng.uniform(0.5, 1.5, (5, 33, 7)).astype(dtype)
    tolerance = 2e-5 if dtype is np.float32 else 1e-11
    for axis in (None, 0, 1, 2, (0, 2)):
        for keepdims in (False, True):
            got = function(put(x), axis, keepdims=keepdims)
            expected = np.asarray(function(x, axis, keepdims=keepdims))
            assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
            np.testing.assert_allclose(get(got), expected, rtol=tolerance)
    np.testing.assert_allclose(
        get(function(put(x).T[1:, ::2], 0)), function(x.T[1:, ::2], 0), rtol=tolerance
    )


def test_places_and_running_sums(rng, dtype):
    x = rng.standard_normal((4, 9, 5)).astype(dtype)
    for axis in (None, 0, 1, 2):
        np.testing.assert_array_equal(
            get(hl.kernels.argmax(put(x), axis)), hl.kernels.argmax(x, axis)
        )
    for axis in (0, 1, 2):
        np.testing.assert_allclose(
            get(hl.kernels.cumsum(put(x), axis)), hl.kernels.cumsum(x, axis), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("shape", [(3, 10), (4, 5, 6), (2, 300)])
def test_softmax(rng, dtype, shape):
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    for axis in range(len(shape)):
        for name in ("softmax", "log_softmax"):
            y = getattr(hl.kernels, name)(x, axis=axis)
            back = getattr(hl.kernels, f"{name}_backward")
            got = getattr(hl.kernels, name)(put(x), axis=axis)
            np.testing.assert_allclose(get(got), y, rtol=2e-5, atol=1e-6)
            np.testing.assert_allclose(
                get(back(put(dy), put(y), axis=axis)), back(dy, y, axis=axis), rtol=2e-4, atol=2e-6
            )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(rng, reduction):
    logits = rng.standard_normal((9, 7)).astype("f4")
    labels = rng.integers(0, 7, 9)
    labels[3] = -100
    weight = rng.uniform(0.5, 2, 7).astype("f4")
    for factor in (None, weight):
        want = hl.kernels.cross_entropy_with_grad(
            logits, labels, weight=factor, reduction=reduction
        )
        got = hl.kernels.cross_entropy_with_grad(
            put(logits),
            put(labels),
            weight=None if factor is None else put(factor),
            reduction=reduction,
        )
        for a, b in zip(got, want):
            np.testing.assert_allclose(get(a), b, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="labels must lie in"):
        hl.kernels.cross_entropy(put(logits), put(labels + 7))
    with pytest.raises(hl.DeviceError, match="logits and labels must lie on one device"):
        hl.kernels.cross_entropy(put(logits), labels)


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_losses_of_pairs(rng, dtype, name):
    x, y = (rng.standard_normal((50, 61)).astype(dtype) for _ in range(2))
    function = getattr(hl.kernels, f"{name}_with_grad")
    for a, b in zip(function(put(x), put(y)), function(x, y)):
        np.testing.assert_allclose(get(a), b, rtol=1e-4, atol=1e-7)


def test_dropout_drops_the_same(rng):
    x = rng.standard_normal((33, 65)).astype("f4")
    key = hl.kernels.random_key()
    np.testing.assert_array_equal(
        get(hl.kernels.dropout(put(x), 0.3, key=key)), hl.kernels.dropout(x, 0.3, key=key)
    )


def losses(device: str, optimizer: str, steps: int = 6) -> list[float]:
    """A small network's first steps."""
    hl.seed(3)
    rng = np.random.default_rng(5)
    x = hl.tensor(rng.standard_normal((16, 12)).astype("f4"), device=device)
    labels = hl.tensor(rng.integers(0, 5, 16), device=device)
    net = hl.nn.Sequential(
        hl.nn.Linear(12, 24), hl.nn.ReLU(), hl.nn.Linear(24, 24), hl.nn.GELU(), hl.nn.Linear(24, 5)
    ).to(device)
    step = getattr(hl.optim, optimizer)(net.parameters(), lr=0.05)
    curve = []
    for _ in range(steps):
        step.zero_grad()
        loss = hl.nn.functional.cross_entropy(net(x), labels)
        loss.backward()
        step.step()
        curve.append(loss.item())
    assert all(parameter.device == x.device for parameter in net.parameters())
    return curve


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
def test_training_gives_the_curve_of_the_cpu(optimizer):
    expected = losses("cpu", optimizer)
    np.testing.assert_allclose(losses("cuda", optimizer), expected, rtol=2e-4)
    assert expected[-1] < expected[0]
