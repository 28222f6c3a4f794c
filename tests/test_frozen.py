"""Modules with frozen weights: what they multiply by, and that nothing stale comes of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import hotloop as hl
from hotloop import nn
from hotloop.train import predict

X = np.random.default_rng(0).standard_normal((6, 20), np.float32)


def network() -> nn.Sequential:
    hl.seed(0)
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Dropout(0.5), nn.Linear(40, 3))


def result(model) -> np.ndarray:
    return model(hl.from_numpy(X)).detach().numpy()


def packed(layer) -> bool:
    return layer._pack is not None and layer._pack.stands_for(layer.weight)


def test_a_frozen_module_multiplies_by_packed_weights():
    model = network()
    expected = result(model.eval())
    assert model.train().freeze() is model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert packed(model[0])
    assert packed(model[3])
    output = model(hl.from_numpy(X))
    assert not output.requires_grad
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_gradients_pass_through_a_frozen_module():
    model = network().freeze()
    x = hl.tensor(X, requires_grad=True)
    model(x).sum().backward()
    plain = network().eval()
    other = hl.tensor(X, requires_grad=True)
    plain(other).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), other.grad.numpy(), rtol=1e-5, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_weights_cannot_be_written():
    model = network()
    weight, view = model[0].weight, model[0].weight.detach().numpy()
    optimizer = hl.optim.SGD(model.parameters(), lr=0.1)
    model.freeze()
    before = result(model)
    with pytest.raises(ValueError, match="read-only"):
        weight.data[...] = 1
    with pytest.raises((ValueError, TypeError, RuntimeError), match=r"read-only|writable"):
        weight.mul_(2.0)
    with pytest.raises(RuntimeError, match=r"'0\.weight' must be writable.*unfreeze"):
        model.load_state_dict(network().state_dict())
    optimizer.step()  # no gradients
    view[...] = 0  # of before: no longer the weights
    np.testing.assert_array_equal(result(model), before)
    np.testing.assert_array_equal(weight.numpy(), network()[0].weight.detach().numpy())


def test_a_replaced_weight_is_seen():
    model = network().freeze()
    model[0].weight = nn.Parameter(hl.ones(40, 20))
    expected = np.maximum(X.sum(1, keepdims=True) + model[0].bias.numpy(), 0)
    np.testing.assert_allclose(result(model[:2]), expected, rtol=1e-4, atol=1e-4)
    model[3].weight.data = np.zeros((3, 40), np.float32)
    np.testing.assert_allclose(result(model), np.tile(model[3].bias.numpy(), (6, 1)))


def test_conversion_and_copies_are_not_frozen():
    model = network().freeze()
    twin = copy.deepcopy(model)
    assert twin[0]._pack is None
    with hl.no_grad():
        twin[0].weight.zero_()
        twin[0].bias.zero_()
    assert not result(twin[:1]).any()
    assert result(model[:1]).all()
    assert packed(model[0])
    wide = model.double()
    assert not packed(wide[0])
    x = hl.from_numpy(X.astype(np.float64))
    assert wide(x).dtype == np.float64


def test_unfreeze_returns_to_what_was_before_freeze():
    model = network()
    model[0].weight.requires_grad_(False)
    model[1].eval()
    before = [module.training for module in model.modules()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    model.freeze().freeze().unfreeze()
    assert [module.training for module in model.modules()] == before
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    model.eval().unfreeze()  # not frozen: nothing to return to
    assert not model.training


def test_unfreeze():
    model = network().freeze()
    before = result(model)
    assert model.unfreeze() is model
    assert model[0]._pack is None
    np.testing.assert_allclose(result(model.eval()), before, rtol=1e-5, atol=1e-6)
    model.load_state_dict(network().state_dict())
    model.train()
    optimizer = hl.optim.SGD(model.parameters(), lr=0.1)
    model(hl.from_numpy(X)).sum().backward()
    optimizer.step()
    assert not np.array_equal(model[3].bias.detach().numpy(), network()[3].bias.detach().numpy())


def test_predict_keeps_the_packs_of_frozen_layers():
    model = network()
    model[0].freeze()
    pack = model[0]._pack
    predict(model, X)
    assert model[0]._pack is pack
    assert model[3]._pack is None


def test_shared_weights_are_frozen_once():
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    model[1].weight = model[0].weight
    model.freeze()
    assert model[1].weight is model[0].weight
    assert packed(model[0])
    assert packed(model[1])
