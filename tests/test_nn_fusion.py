"""Layers that run as one kernel: the same bits as one by one; packed weights of convolutions."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import ShapeError, nn


class Watched(nn.ReLU):
    """A ReLU that the chain may not swallow: it keeps what it saw."""

    def forward(self, input):
        self.seen = input
        return super().forward(input)


def twins(dtype, bias=True, **how):
    """The same layers twice; in the second something stands between."""
    hl.seed(3)
    conv = nn.Conv2d(3, 8, 3, bias=bias, dtype=dtype, **how)
    last = nn.Conv2d(8, 4, 1, dtype=dtype)
    fused = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), last)
    return fused, nn.Sequential(conv, Watched(), nn.MaxPool2d(2), last)


def gradients(net, x):
    for p in net.parameters():
        p.grad = None
    data = hl.from_numpy(x).requires_grad_()
    y = net(data)
    (y * y).sum().backward()
    return [y.detach().numpy(), data.grad.numpy(), *(p.grad.numpy() for p in net.parameters())]


@pytest.fixture
def calls(monkeypatch):
    """How often the fused kernel ran."""
    from hotloop.ops import convolution

    count = []
    real = convolution.kernels.conv2d_relu_max_pool2d

    def counting(*args, **how):
        count.append(1)
        return real(*args, **how)

    monkeypatch.setattr(convolution.kernels, "conv2d_relu_max_pool2d", counting)
    return count


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "how", [{}, {"padding": "same"}, {"stride": 2, "padding": (1, 2)}], ids=str
)
def test_sequential_gives_the_same_bits(calls, dtype, bias, how, rng):
    fused, apart = twins(dtype, bias, **how)
    x = rng.standard_normal((5, 3, 13, 14)).astype(dtype)
    got = gradients(fused, x)
    assert len(calls) == 1
    expected = gradients(apart, x)
    assert len(calls) == 1
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with hl.no_grad():
        np.testing.assert_array_equal(fused(hl.from_numpy(x)).numpy(), got[0])
    assert len(calls) == 2


def test_sequential_leaves_other_chains_alone(calls, rng):
    hl.seed(0)
    conv = nn.Conv2d(3, 8, 3)
    x = hl.from_numpy(rng.standard_normal((2, 3, 9, 9)).astype(np.float32))

    class Own(nn.Conv2d):
        pass

    patched = nn.ReLU()
    patched.forward = lambda input: input
    for layers in (
        (conv, nn.ReLU(), nn.MaxPool2d(3)),
        (conv, nn.ReLU(), nn.MaxPool2d(2, 1)),
        (conv, nn.ReLU(), nn.MaxPool2d(2, padding=1)),
        (conv, nn.ReLU(), nn.MaxPool2d(2, dilation=2)),
        (conv, nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        (conv, nn.ReLU(), nn.MaxPool2d(2, return_indices=True)),
        (conv, nn.ReLU(), nn.AvgPool2d(2)),
        (conv, nn.Tanh(), nn.MaxPool2d(2)),
        (conv, patched, nn.MaxPool2d(2)),
        (Own(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)),
        (nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.MaxPool2d(2)),
        (conv, nn.ReLU()),
    ):
        expected = x
        for layer in layers:
            expected = layer(expected)
        got = nn.Sequential(*layers)(x)
        pairs = zip(got, expected) if isinstance(got, tuple) else [(got, expected)]
        for ours, theirs in pairs:
            np.testing.assert_array_equal(ours.detach().numpy(), theirs.detach().numpy())
    assert calls == []
    # One image without a batch runs layer by layer too.
    net = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2))
    assert net(x[0]).shape == (8, 3, 3)
    assert calls == []


def test_errors_in_a_chain_name_the_layer(rng):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    for shape in ((2, 4, 9, 9), (2, 3, 2, 9), (0, 3, 9, 9)):
        x = hl.from_numpy(rng.standard_normal(shape).astype(np.float32))
        with pytest.raises(ShapeError) as caught:
            net(x)
        assert any("layer '0' (Conv2d)" in note for note in caught.value.__notes__)
    with pytest.raises(ShapeError) as caught:
        net(hl.from_numpy(rng.standard_normal((2, 3, 3, 9)).astype(np.float32)))
    assert any("layer '2' (MaxPool2d)" in note for note in caught.value.__notes__)


def test_a_changed_weight_is_noticed_at_backward(rng):
    net, _ = twins(np.float32)
    y = net(hl.from_numpy(rng.standard_normal((2, 3, 9, 9)).astype(np.float32)))
    with hl.no_grad():
        net[0].weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_predict_packs_convolutions_and_forgets_them(rng):
    hl.seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten()
    )
    first, second = net[0], net[3]
    x = rng.standard_normal((30, 3, 12, 12)).astype(np.float32)
    used = []

    def batches():
        for start in range(0, 30, 10):
            used.append([layer._pack.stands_for(layer.weight) for layer in (first, second)])
            yield x[start : start + 10]
            if start == 10:
                with hl.no_grad():
                    second.weight.mul_(2.0)

    got = hl.train.predict(net, batches()).numpy()
    assert used == [[True, True], [True, True], [True, False]]
    assert first._pack is second._pack is None
    with hl.no_grad():
        changed = net(hl.from_numpy(x)).numpy()
        second.weight.mul_(0.5)
        before = net(hl.from_numpy(x)).numpy()
    np.testing.assert_array_equal(got[:20], before[:20])
    np.testing.assert_array_equal(got[20:], changed[20:])


def test_frozen_convolutions_keep_packed_weights(rng):
    hl.seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
    x = hl.from_numpy(rng.standard_normal((3, 3, 12, 12)).astype(np.float32))
    expected = net(x).detach().numpy()
    net.freeze()
    assert net[0]._is_packed()
    assert not net[3]._is_packed()  # a plain product, which packs for itself
    np.testing.assert_array_equal(net(x).numpy(), expected)
    np.testing.assert_array_equal(hl.train.predict(net, [x]).numpy(), expected)
    assert net[0]._is_packed()
    net.unfreeze()
    assert net[0]._pack is None
    np.testing.assert_array_equal(net(x).detach().numpy(), expected)


# ---- batch norm and ReLU ----


@pytest.fixture
def norms(monkeypatch):
    """How often the fused op ran."""
    from hotloop.nn import fusion

    count = []
    real = fusion.batch_norm_relu

    def counting(*args):
        count.append(1)
        return real(*args)

    monkeypatch.setattr(fusion, "batch_norm_relu", counting)
    return count


@pytest.mark.parametrize("how", [{}, {"affine": False}, {"bias": False}, {"momentum": None}])
@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 7), (3, 5, 6, 7)], ids=str)
def test_a_norm_takes_the_relu_behind_it(norms, dtype, how, shape, rng):
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    results = []
    x = rng.standard_normal(shape).astype(dtype)
    x[0, 1] = np.nan
    for relu in (nn.ReLU, Watched):
        layer = kind(5, dtype=dtype, **how)
        net = nn.Sequential(layer, relu())
        trained = gradients(net, x)
        running = [layer.running_mean.numpy(), layer.running_var.numpy()]
        assert layer.num_batches_tracked.item() == 1
        net.eval()
        results.append([*trained, *running, *gradients(net, x)])
        with hl.no_grad():
            results[-1].append(net(hl.from_numpy(x)).numpy())
        assert len(norms) == 3
    for fused, apart in zip(*results, strict=True):
        np.testing.assert_array_equal(fused, apart)


def test_norms_that_are_left_alone(norms, rng):
    x = hl.from_numpy(rng.standard_normal((3, 5, 6, 7)).astype(np.float32))

    class Own(nn.BatchNorm2d):
        def forward(self, input):
            return super().forward(input) + 1

    for layers in (
        (nn.BatchNorm2d(5), nn.Tanh()),
        (nn.BatchNorm2d(5), Watched()),
        (Own(5), nn.ReLU()),
        (nn.InstanceNorm2d(5), nn.ReLU()),
        (nn.BatchNorm2d(5),),
    ):
        got = nn.Sequential(*layers)(x)
        expected = x
        for layer in layers:
            expected = layer(expected)
        np.testing.assert_array_equal(got.detach().numpy(), expected.detach().numpy())
    net = nn.Sequential(nn.BatchNorm2d(5), nn.ReLU())
    for wrong in (x[:, :4], x[0], hl.from_numpy(np.zeros((1, 5, 1, 1), np.float32))):
        with pytest.raises(ShapeError) as caught:
            net(wrong)
        assert any("layer '0' (BatchNorm2d)" in note for note in caught.value.__notes__)
    assert norms == []


def test_a_result_changed_in_place_is_noticed_at_backward(norms, rng):
    net = nn.Sequential(nn.BatchNorm2d(5), nn.ReLU())
    y = net(hl.from_numpy(rng.standard_normal((3, 5, 6, 7)).astype(np.float32)))
    assert len(norms) == 1
    total = y.sum()
    with hl.no_grad():
        y.mul_(2.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        total.backward()
