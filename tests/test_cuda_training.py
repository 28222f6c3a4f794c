"""Reductions, losses, dropout and whole training steps on an emulated GPU: as on the CPU."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

import hotloop as hl
from cuda_library import get, put

pytestmark = pytest.mark.usefixtures("cuda")


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
    hl.kernels.cross_entropy(put(logits), put(labels + 7))  # more of it: test_cuda_step.py
    with pytest.raises(ValueError, match="labels must lie in"):
        hl.cuda.synchronize()
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


def network(kind: str) -> hl.nn.Module:
    nn = hl.nn
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 5)
        )
    if kind == "norms":
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 3, stride=2),
            nn.GroupNorm(2, 4),
            nn.Flatten(),
            nn.Linear(36, 12),
            nn.LayerNorm(12),
            nn.GELU(),
            nn.RMSNorm(12),
            nn.Linear(12, 5),
        )
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def losses(
    device: str, optimizer: str, kind: str = "mlp", steps: int = 6, **options
) -> list[float]:
    """A small network's first steps."""
    hl.seed(3)
    rng = np.random.default_rng(5)
    shape = (16, 12) if kind == "mlp" else (8, 3, 10, 10)
    x = hl.tensor(rng.standard_normal(shape).astype("f4"), device=device)
    labels = hl.tensor(rng.integers(0, 5, shape[0]), device=device)
    net = network(kind).to(device)
    step = getattr(hl.optim, optimizer)(net.parameters(), lr=0.01, **options)
    curve = []
    for _ in range(steps):
        step.zero_grad()
        loss = hl.nn.functional.cross_entropy(net(x), labels)
        loss.backward()
        step.step(max_norm=0.5)
        curve.append(loss.item())
    assert all(parameter.device == x.device for parameter in net.parameters())
    if kind == "norms":
        assert net[1].num_batches_tracked.item() == steps
    return curve


@pytest.mark.parametrize("kind", ["mlp", "cnn", "norms"])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "LAMB"])
def test_training_gives_the_curve_of_the_cpu(optimizer, kind):
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    expected = losses("cpu", optimizer, kind, **options)
    np.testing.assert_allclose(losses("cuda", optimizer, kind, **options), expected, rtol=1e-3)
    assert expected[-1] < expected[0]


STEPS = {
    "sgd_step": (1, {"momentum": 0.5}),
    "adam_step": (2, {}),
    "adamw_step": (2, {"weight_decay": 0.1}),
    "adamax_step": (2, {}),
    "rmsprop_step": (1, {}),
    "adagrad_step": (1, {}),
    "adadelta_step": (2, {}),
    "lion_step": (1, {}),
    "lamb_step": (2, {"weight_decay": 0.1}),
}
UNCOUNTED = {"rmsprop_step", "adadelta_step", "lion_step"}


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_optimizers(rng, name):
    count, options = STEPS[name]
    function = getattr(hl.kernels, name)
    shapes = [(33, 7), (5000,), (0,), (1,)]
    dtypes = ["f4", "f8", "f4", "f8"]
    slots = [
        [np.abs(rng.standard_normal(s)).astype(d) for s, d in zip(shapes, dtypes)]
        for _ in range(2 + count)
    ]
    moved = [[put(a) for a in slot] for slot in slots]
    for step in (1, 2):
        settings = options if name in UNCOUNTED else {**options, "step": step}
        want = function(*slots, lr=0.01, max_norm=3.0, **settings)
        got = function(*moved, lr=0.01, max_norm=3.0, **settings)
        assert float(got) == pytest.approx(want, rel=1e-6)
    for a, b in zip(chain(*slots), chain(*moved)):
        np.testing.assert_allclose(get(b), a, rtol=2e-5, atol=1e-6)


def test_norms_and_clipping(rng):
    grads = [rng.standard_normal(s).astype("f4") for s in ((9, 5), (4097,))]
    for kind in (1, 2, np.inf):
        moved = [put(g) for g in grads]
        want = hl.kernels.grad_norm(grads, norm_type=kind)
        assert float(hl.kernels.grad_norm(moved, norm_type=kind)) == pytest.approx(want, rel=1e-6)
    copies = [g.copy() for g in grads]
    hl.kernels.clip_grad_norm(copies, 1.0)
    hl.kernels.clip_grad_norm(moved, 1.0)
    hl.kernels.clip_grad_value(copies, 0.01)
    hl.kernels.clip_grad_value(moved, 0.01)
    for a, b in zip(copies, moved):
        np.testing.assert_allclose(get(b), a, rtol=1e-5)


def test_optimizers_refuse_what_is_not_there(rng):
    p, g = np.ones(4, "f4"), np.ones(4, "f4")
    with pytest.raises(hl.DeviceError, match="bf16_params must be None for params on a GPU"):
        hl.kernels.sgd_step([put(p)], [put(g)], lr=0.1, bf16_params=[p])
    with pytest.raises(hl.DeviceError, match=r"params and grads\[0\] must lie on one device"):
        hl.kernels.sgd_step([put(p)], [g], lr=0.1)
    shared = put(p)
    with pytest.raises(hl.OutputError, match="must not overlap"):
        hl.kernels.sgd_step([shared], [shared], lr=0.1)
