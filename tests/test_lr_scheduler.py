"""Learning-rate schedules: PyTorch's rates epoch by epoch, state, arrays, bad input."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop.optim import SGD, lr_scheduler

SCHEDULES = [
    ("StepLR", {"step_size": 3}),
    ("StepLR", {"step_size": 2, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [2, 5, 5, 9], "gamma": 0.3}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("ConstantLR", {}),
    ("ConstantLR", {"factor": 0.5, "total_iters": 3}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.1, "end_factor": 0.8, "total_iters": 7}),
    ("CosineAnnealingLR", {"T_max": 10}),
    ("CosineAnnealingLR", {"T_max": 12, "eta_min": 0.01}),
    ("LambdaLR", {"lr_lambda": lambda epoch: 1 / (1 + epoch)}),
]


def optimizer_with(*rates):
    return SGD([{"params": [hl.ones(2, requires_grad=True)], "lr": lr} for lr in rates])


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_rates_are_those_of_pytorch(name, options):
    torch = pytest.importorskip("torch")
    ours = optimizer_with(0.5, 0.02)
    theirs = torch.optim.SGD(
        [{"params": [torch.ones(2, requires_grad=True)], "lr": lr} for lr in (0.5, 0.02)]
    )
    mine = getattr(lr_scheduler, name)(ours, **options)
    oracle = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    for _ in range(12):
        rates = [group["lr"] for group in ours.param_groups]
        np.testing.assert_allclose(rates, [g["lr"] for g in theirs.param_groups], atol=1e-15)
        np.testing.assert_allclose(mine.get_last_lr(), rates)
        theirs.step()
        mine.step()
        oracle.step()


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"patience": 0, "mode": "max", "factor": 0.5, "cooldown": 2},
        {"patience": 1, "threshold": 0.1, "threshold_mode": "abs", "min_lr": 0.01},
    ],
)
def test_reduction_on_a_plateau_is_that_of_pytorch(options, rng):
    torch = pytest.importorskip("torch")
    ours = optimizer_with(0.5)
    theirs = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.5)
    mine = lr_scheduler.ReduceLROnPlateau(ours, **options)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    for value in rng.uniform(0.5, 1.5, 25).round(1):
        mine.step(value)
        oracle.step(value)
        np.testing.assert_allclose(mine.get_last_lr(), [theirs.param_groups[0]["lr"]])


def test_a_rate_that_is_an_array_is_changed_in_place():
    lr = np.array(0.5)
    scheduler = lr_scheduler.ExponentialLR(optimizer_with(lr), 0.5)
    scheduler.step()
    assert lr == 0.25


def test_state_goes_on():
    first, second = optimizer_with(0.5), optimizer_with(0.5)
    left, right = (lr_scheduler.CosineAnnealingLR(o, 10) for o in (first, second))
    for _ in range(4):
        left.step()
    right.load_state_dict(left.state_dict())
    left.step()
    right.step()
    assert left.get_last_lr() == right.get_last_lr() == [first.param_groups[0]["lr"]]


def test_bad_input():
    optimizer = optimizer_with(0.5, 0.1)
    with pytest.raises(TypeError, match="StepLR: optimizer must be an Optimizer, got int"):
        lr_scheduler.StepLR(3, optimizer)
    with pytest.raises(ValueError, match="must hold 2 functions"):
        lr_scheduler.LambdaLR(optimizer, [lambda epoch: 1.0])
    with pytest.raises(ValueError, match="factor must be below 1"):
        lr_scheduler.ReduceLROnPlateau(optimizer, factor=1.0)
    with pytest.raises(ValueError, match="mode must be one of"):
        lr_scheduler.ReduceLROnPlateau(optimizer, "down")
