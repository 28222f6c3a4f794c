"""Whole training steps: forward, loss, backward, update."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target, normal
from ._rivals import torch_call


def _mlp(nn: Any) -> Any:
    return nn.Sequential(
        nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def _cnn(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 13 * 13, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def _ours(model: Any) -> Build:
    def build(arrays: Arrays) -> Call:
        hl.seed(0)
        network = model(hl.nn)
        optimizer = hl.optim.Adam(network.parameters(), lr=1e-3)
        loss_of = hl.nn.CrossEntropyLoss()
        x, labels = hl.from_numpy(arrays["x"]), hl.from_numpy(arrays["labels"])

        def step() -> None:
            optimizer.zero_grad()
            loss = loss_of(network(x), labels)
            loss.backward()
            optimizer.step()

        return step

    return build


def _torch(model: Any, **how: Any) -> Build:
    def make(torch: Any, t: dict[str, Any]) -> Call:
        torch.manual_seed(0)
        network = model(torch.nn)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, **how)
        loss_of = torch.nn.CrossEntropyLoss()

        def step() -> None:
            with torch.enable_grad():
                optimizer.zero_grad()
                loss = loss_of(network(t["x"]), t["labels"])
                loss.backward()
                optimizer.step()

        return step

    return torch_call(make)


def _case(name: str, model: Any, shape: tuple[int, ...], flops: float, promised: bool) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        return {"x": normal(rng, *shape), "labels": rng.integers(0, 10, shape[0])}

    return Case(
        family="training",
        name=f"{name}, batch {shape[0]}, Adam",
        inputs=inputs,
        contenders={
            "hotloop": _ours(model),
            "torch": {"fused": _torch(model, fused=True), "eager": _torch(model)},
        },
        flops=flops * shape[0],
        compare=False,  # both initialise for themselves; the loss curves are compared by the tests
        target=Target("torch", 1.0) if promised else None,
        quick=promised,
    )


# The first layer needs no gradient of its input, so it costs two products of three.
_MLP_FLOPS = 2.0 * (2 * 784 * 64 + 3 * 64 * 64 + 3 * 64 * 10)
_CNN_FLOPS = 2.0 * (2 * 26 * 26 * 9 * 32 + 3 * 5408 * 128 + 3 * 128 * 10)

CASES = [
    _case("MLP 784-64-64-10", _mlp, (32, 784), _MLP_FLOPS, True),
    _case("MLP 784-64-64-10", _mlp, (128, 784), _MLP_FLOPS, False),
    _case("conv 32, dense 128, 10 on 28x28", _cnn, (32, 1, 28, 28), _CNN_FLOPS, False),
]
