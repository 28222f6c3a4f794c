"""Optimizers: PyTorch's numbers, one call per group, state that can be saved and loaded."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import kernels
from hotloop.optim import (
    LAMB,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    RMSprop,
)

SHAPES = [(3, 4), (4,), (1,), (2, 3, 5)]
CASES = [
    (SGD, {}),
    (SGD, {"lr": 0.1, "weight_decay": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (Adam, {}),
    (Adam, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    (AdamW, {}),
    (AdamW, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "maximize": True}),
    (Adam, {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    (Adam, {"lr": 0.01, "maximize": True, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    (AdamW, {"lr": 0.01, "amsgrad": True, "maximize": True}),
    (Adamax, {}),
    (Adamax, {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "maximize": True}),
    (NAdam, {}),
    (NAdam, {"lr": 0.01, "weight_decay": 0.1, "momentum_decay": 0.1, "maximize": True}),
    (NAdam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    (RMSprop, {}),
    (RMSprop, {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    (RMSprop, {"momentum": 0.9}),
    (RMSprop, {"centered": True, "eps": 1e-2}),
    (RMSprop, {"centered": True, "momentum": 0.5, "weight_decay": 0.1, "eps": 1e-2}),
    (Adagrad, {}),
    (Adagrad, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "maximize": True}),
    (Adagrad, {"initial_accumulator_value": 0.5, "eps": 1e-3}),
    (Adadelta, {}),
    (Adadelta, {"lr": 0.5, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.1, "maximize": True}),
]
OUR_OWN = [
    (Lion, {"weight_decay": 0.1}),
    (Lion, {"betas": (0.5, 0.8), "maximize": True}),
    (LAMB, {"weight_decay": 0.1}),
]


@pytest.fixture(autouse=True)
def _scalars_in_float64():
    """PyTorch keeps NAdam's product of momenta in its default dtype: float32 errs by 1e-7."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def parameters(rng, dtype=np.float64, shapes=SHAPES):
    return [hl.tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in shapes]


def give(params, grads):
    for param, grad in zip(params, grads):
        param.grad = None if grad is None else hl.from_numpy(grad)


def values(params):
    return [p.detach().numpy().copy() for p in params]


def gradients(rng, params):
    return [rng.standard_normal(p.shape).astype(p.detach().numpy().dtype) for p in params]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_twenty_steps_are_those_of_pytorch(rng, kind, options, dtype):
    torch = pytest.importorskip("torch")
    ours = parameters(rng, dtype)
    theirs = [torch.tensor(value, requires_grad=True) for value in values(ours)]
    optimizer = kind(ours, **options)
    oracle = getattr(torch.optim, kind.__name__)(theirs, **options)
    for step in range(20):
        grads = gradients(rng, ours)
        if step in (0, 7, 8):
            grads[1] = None  # this one falls behind in its count
        give(ours, grads)
        for tensor, grad in zip(theirs, grads):
            tensor.grad = None if grad is None else torch.tensor(grad)
        optimizer.step()
        oracle.step()
    tolerance = 1e-12 if dtype == np.float64 else 5e-5
    for mine, tensor in zip(values(ours), theirs):
        np.testing.assert_allclose(mine, tensor.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW, Adamax, NAdam, RMSprop, Adagrad, Adadelta])
def test_defaults_and_order_of_arguments_are_those_of_pytorch(kind):
    torch = pytest.importorskip("torch")
    import inspect

    oracle = inspect.signature(getattr(torch.optim, kind.__name__)).parameters
    for name, parameter in inspect.signature(kind).parameters.items():
        assert name in oracle
        if name != "params":
            assert parameter.default == oracle[name].default, name
            assert parameter.kind == oracle[name].kind, name
    positional = [n for n, p in oracle.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    ours = inspect.signature(kind).parameters
    assert [n for n, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == positional


def test_one_kernel_call_per_group_and_step(rng, monkeypatch):
    calls = []
    real = kernels.adamw_step

    def spy(*args, **options):
        calls.append((len(args[0]), options["step"], options["lr"]))
        return real(*args, **options)

    monkeypatch.setattr(kernels, "adamw_step", spy)
    params = parameters(rng)
    optimizer = AdamW([{"params": params[:3]}, {"params": params[3:], "lr": 0.5}], lr=0.1)
    for _ in range(2):
        give(params, gradients(rng, params))
        optimizer.step()
    assert calls == [(3, 1, 0.1), (1, 1, 0.5), (3, 2, 0.1), (1, 2, 0.5)]


def test_groups_have_their_own_options(rng):
    params = parameters(rng)
    before = values(params)
    optimizer = SGD([{"params": params[0]}, {"params": params[1:], "lr": 1.0}], lr=0.25)
    give(params, [np.ones(s) for s in SHAPES])
    optimizer.step()
    after = values(params)
    np.testing.assert_allclose(before[0] - after[0], 0.25)
    np.testing.assert_allclose(before[3] - after[3], 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 1.0]
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    np.testing.assert_array_equal(values(params)[0], after[0])


def test_groups_can_be_added(rng):
    params = parameters(rng)
    optimizer = SGD(params[:2], lr=0.5)
    optimizer.add_param_group({"params": params[2:], "momentum": 0.9})
    give(params, gradients(rng, params))
    before = values(params)
    optimizer.step()
    assert all((a != b).any() for a, b in zip(before, values(params)))
    assert set(optimizer.state[params[2]]) == {"step", "momentum_buffer"}


def test_parameters_of_both_dtypes_in_one_group(rng):
    params = parameters(rng, np.float32, SHAPES[:2]) + parameters(rng, np.float64, SHAPES[2:])
    optimizer = AdamW(params)
    give(params, gradients(rng, params))
    before = values(params)
    optimizer.step()
    for old, new in zip(before, values(params)):
        assert old.dtype == new.dtype
        assert (old != new).any()


def test_a_learning_rate_may_be_an_array(rng):
    left, right = parameters(np.random.default_rng(3)), parameters(np.random.default_rng(3))
    lr = np.array(0.1)
    a, b = AdamW(left, lr=lr), AdamW(right, lr=0.1)
    for _ in range(3):
        grads = gradients(rng, left)
        give(left, grads)
        give(right, grads)
        a.step()
        b.step()
        lr *= 0.5
        b.param_groups[0]["lr"] *= 0.5
    for x, y in zip(values(left), values(right)):
        np.testing.assert_array_equal(x, y)


def test_gradients_are_dropped_or_zeroed(rng):
    params = parameters(rng)
    optimizer = SGD(params)
    give(params, gradients(rng, params))
    params[0].grad = None
    optimizer.zero_grad(set_to_none=False)
    assert params[0].grad is None
    assert not params[1].grad.numpy().any()
    optimizer.zero_grad()
    assert all(param.grad is None for param in params)
    optimizer.step()  # nothing to do
    assert not any(optimizer.state.values())


def test_a_closure_computes_the_loss(rng):
    (param,) = parameters(rng, shapes=[(3,)])
    optimizer = SGD([param], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (param * param).sum()
        loss.backward()
        return loss

    with hl.no_grad():
        before = values([param])[0]
        loss = optimizer.step(closure)
    np.testing.assert_allclose(loss.item(), (before**2).sum())
    np.testing.assert_allclose(values([param])[0], 0, atol=1e-15)


def test_a_step_before_backward_is_noticed(rng):
    (param,) = parameters(rng, shapes=[(3,)])
    optimizer = SGD([param], lr=0.5)
    loss = (param * param).sum()
    param.grad = hl.from_numpy(np.ones(3))
    optimizer.step()
    with pytest.raises(RuntimeError, match="in place"):
        loss.backward()


# ---- scaled and clipped gradients -------------------------------------------------------------


@pytest.mark.parametrize("norm_type", [1, 2.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e6])
def test_clip_grad_norm_is_that_of_pytorch(rng, norm_type, max_norm, dtype):
    torch = pytest.importorskip("torch")
    ours = parameters(rng, dtype)
    grads = gradients(rng, ours)
    theirs = [torch.tensor(value, requires_grad=True) for value in values(ours)]
    grads[1] = None
    give(ours, [None if g is None else g.copy() for g in grads])
    for tensor, grad in zip(theirs, grads):
        tensor.grad = None if grad is None else torch.tensor(grad)
    norm = hl.nn.utils.clip_grad_norm_(ours, max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    bound = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(norm.item(), expected.item(), rtol=bound)
    for mine, tensor in zip(ours, theirs):
        assert (mine.grad is None) == (tensor.grad is None)
        if mine.grad is not None:
            np.testing.assert_allclose(mine.grad.numpy(), tensor.grad.numpy(), rtol=2 * bound)


def test_clip_grad_value_and_errors(rng):
    params = parameters(rng)
    grads = gradients(rng, params)
    give(params, [g.copy() for g in grads])
    hl.nn.utils.clip_grad_value_(params, 0.25)
    for param, grad in zip(params, grads):
        np.testing.assert_array_equal(param.grad.numpy(), np.clip(grad, -0.25, 0.25))
    params[0].grad.data[0, 0] = np.nan
    with pytest.raises(RuntimeError, match="must be finite, got nan"):
        hl.nn.utils.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    with pytest.raises(ValueError, match="norm_type must be 1, 2 or inf, got 3"):
        hl.nn.utils.clip_grad_norm_(params, 1.0, 3)
    assert np.isnan(hl.nn.utils.clip_grad_norm_(params, 1.0).item())
    assert np.isnan(params[2].grad.numpy()).all()
    assert hl.nn.utils.clip_grad_norm_([], 1.0).item() == 0


@pytest.mark.parametrize(("kind", "options"), [(AdamW, {}), (SGD, {"lr": 0.1}), (LAMB, {})])
def test_scaling_and_clipping_on_the_way(rng, kind, options):
    left, right = parameters(np.random.default_rng(3)), parameters(np.random.default_rng(3))
    first = kind([{"params": left[:2]}, {"params": left[2:], "lr": 0.01}], **options)
    second = kind([{"params": right[:2]}, {"params": right[2:], "lr": 0.01}], **options)
    for max_norm in (0.5, 1e3, 0.5):
        grads = gradients(rng, left)
        give(left, [g * 8 for g in grads])
        kept = [param.grad.numpy().copy() for param in left]
        give(right, [g.copy() for g in grads])
        first.step(grad_scale=np.array(8.0), max_norm=max_norm)
        norm = hl.nn.utils.clip_grad_norm_(right, max_norm)
        second.step()
        np.testing.assert_allclose(first.grad_norm, norm.item(), rtol=1e-12)
        for param, grad in zip(left, kept):
            np.testing.assert_array_equal(param.grad.numpy(), grad)
        for x, y in zip(values(left), values(right)):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14)


# ---- state --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), CASES + OUR_OWN)
def test_a_loaded_optimizer_goes_on(rng, kind, options):
    left = parameters(rng)
    first = kind([{"params": left[:2], "lr": 0.05}, {"params": left[2:]}], **options)
    for _ in range(3):
        give(left, gradients(rng, left))
        first.step()
    right = [hl.tensor(value, requires_grad=True) for value in values(left)]
    second = kind([{"params": right[:2]}, {"params": right[2:]}], **options)
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["lr"] == 0.05
    for _ in range(3):
        grads = gradients(rng, left)
        give(left, grads)
        give(right, grads)
        first.step()
        second.step()
    for x, y in zip(values(left), values(right)):
        np.testing.assert_array_equal(x, y)


def test_the_state_dict_has_the_form_of_pytorch(rng):
    params = parameters(rng)
    optimizer = AdamW([{"params": params[:2]}, {"params": params[2:]}])
    give(params, gradients(rng, params))
    params[1].grad = None
    optimizer.step()
    state = optimizer.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2, 3]]
    assert sorted(state["state"]) == [0, 2, 3]
    assert set(state["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    assert state["state"][0]["step"] == 1
    assert state["state"][3]["exp_avg"].shape == SHAPES[3]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_the_state_of_pytorch_can_be_loaded(rng, kind, options):
    torch = pytest.importorskip("torch")
    ours = parameters(rng)
    theirs = [torch.tensor(value, requires_grad=True) for value in values(ours)]
    oracle = getattr(torch.optim, kind.__name__)(theirs, **options)

    def advance():
        grads = gradients(rng, ours)
        for tensor, grad in zip(theirs, grads):
            tensor.grad = torch.tensor(grad)
        oracle.step()
        return grads

    for _ in range(3):
        advance()
    for mine, tensor in zip(ours, theirs):
        mine.detach().numpy()[...] = tensor.detach().numpy()
    optimizer = kind(ours, **options)
    optimizer.load_state_dict(oracle.state_dict())
    for _ in range(3):
        give(ours, advance())
        optimizer.step()
    for mine, tensor in zip(values(ours), theirs):
        np.testing.assert_allclose(mine, tensor.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_loading_is_all_or_nothing(rng):
    params = parameters(rng)
    optimizer = Adam(params)
    give(params, gradients(rng, params))
    optimizer.step()
    good = optimizer.state_dict()
    bad_shape = {**good, "state": {**good["state"], 3: {**good["state"][3], "exp_avg": np.ones(2)}}}
    bad_option = {**good, "param_groups": [{**good["param_groups"][0], "lr": -1.0}]}
    bad_length = {**good, "param_groups": [{**good["param_groups"][0], "params": [0, 1]}]}
    state = optimizer.state
    for bad, text in (
        (bad_shape, r"exp_avg must have the parameter's shape \(2, 3, 5\), got \(2,\)"),
        (bad_option, "lr must be in"),
        (bad_length, r"\[4\] parameters, got \[2\]"),
        ({}, '"state" and "param_groups"'),
    ):
        with pytest.raises(ValueError, match=text):
            optimizer.load_state_dict(bad)
        assert optimizer.state is state


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (SGD, {"lr": -0.1}, "SGD: lr must be in .* got -0.1"),
        (SGD, {"lr": float("nan")}, "lr must be in"),
        (SGD, {"momentum": -1}, "momentum must be in"),
        (SGD, {"weight_decay": -1}, "weight_decay must be in"),
        (SGD, {"nesterov": True}, "nesterov must have momentum > 0"),
        (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "dampening 0"),
        (Adam, {"betas": (0.9, 1.0)}, "betas must be in"),
        (Adam, {"betas": (-0.1, 0.9)}, "betas must be in"),
        (Adam, {"betas": 0.9}, "betas must be two numbers"),
        (Adam, {"eps": -1e-8}, "eps must be in"),
        (NAdam, {"capturable": True}, "capturable=True is not supported"),
        (Adagrad, {"lr_decay": -1}, "Adagrad: lr_decay must be in"),
        (Adagrad, {"initial_accumulator_value": -1}, "initial_accumulator_value must be in"),
        (Adadelta, {"rho": 1.5}, r"Adadelta: rho must be in \[0, 1\], got 1.5"),
        (RMSprop, {"alpha": -0.5}, "RMSprop: alpha must be in"),
        (NAdam, {"momentum_decay": -0.5}, "NAdam: momentum_decay must be in"),
    ],
)
def test_options_out_of_range(rng, kind, options, text):
    with pytest.raises(ValueError, match=text):
        kind(parameters(rng), **options)


def test_parameters_that_are_none(rng):
    params = parameters(rng)
    with pytest.raises(ValueError, match="must not be empty"):
        SGD([])
    with pytest.raises(TypeError, match=r"got Tensor; pass model\.parameters"):
        SGD(params[0])
    with pytest.raises(TypeError, match="got ndarray"):
        SGD([np.ones(3)])
    with pytest.raises(TypeError, match="ordered"):
        SGD([{"params": set(params)}])
    with pytest.raises(ValueError, match="leaves"):
        SGD([params[0] * 2])
    with pytest.raises(ValueError, match=r"shape \(3, 4\) again"):
        SGD([params[0], params[0]])
    with pytest.raises(ValueError, match="again"):
        SGD(params).add_param_group({"params": params[1:2]})
    with pytest.raises(TypeError, match='dict with "params"'):
        SGD(params).add_param_group({"lr": 0.1})
    with pytest.raises(TypeError, match="got learning_rate"):
        SGD([{"params": params, "learning_rate": 0.1}])
    with pytest.raises(TypeError, match="learning_rate"):
        SGD(params, learning_rate=0.1)
    with pytest.raises(TypeError, match="lr must be a number"):
        SGD(params, lr="fast")


def test_named_parameters_are_accepted(rng):
    params = parameters(rng)
    optimizer = SGD([(str(index), param) for index, param in enumerate(params)], lr=0.5)
    assert optimizer.param_groups[0]["params"] == params or all(
        a is b for a, b in zip(optimizer.param_groups[0]["params"], params)
    )
    assert "lr: 0.5" in repr(optimizer)
