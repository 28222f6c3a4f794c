"""Optimizer steps in place over all tensors of a network at once."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target, normal
from ._rivals import torch_call

# 784-64-64-10 with biases; then so many parameters in a few tensors and in many.
NETWORKS: dict[str, tuple[tuple[int, ...], ...]] = {
    "55,050 parameters in 6 tensors": ((64, 784), (64,), (64, 64), (64,), (10, 64), (10,)),
    "55,050 parameters in 161 tensors": ((342,),) * 160 + ((330,),),
    "2.2 M parameters in 4 tensors": ((1024, 1024), (1024,), (1088, 1024), (1088,)),
    "2.2 M parameters in 161 tensors": ((13_665,),) * 161,
    "25 M parameters in 4 tensors": ((2500, 2500),) * 4,
    "25 M parameters in 161 tensors": ((155_280,),) * 161,
}


def _inputs(shapes: tuple[tuple[int, ...], ...]) -> Any:
    def inputs(rng: np.random.Generator) -> Arrays:
        return {
            "params": [normal(rng, *shape) for shape in shapes],
            "grads": [normal(rng, *shape) for shape in shapes],
            "first": [np.zeros(shape, np.float32) for shape in shapes],
            "second": [np.zeros(shape, np.float32) for shape in shapes],
        }

    return inputs


def _adam(arrays: Arrays) -> Call:
    params, grads, first, second = (arrays[n] for n in ("params", "grads", "first", "second"))
    step = hl.kernels.adam_step
    return lambda: step(params, grads, first, second, lr=1e-3, step=1)


def _adamw(arrays: Arrays) -> Call:
    params, grads, first, second = (arrays[n] for n in ("params", "grads", "first", "second"))
    step = hl.kernels.adamw_step
    return lambda: step(params, grads, first, second, lr=1e-3, step=1)


def _adamw_clipped(arrays: Arrays) -> Call:
    params, grads, first, second = (arrays[n] for n in ("params", "grads", "first", "second"))
    step = hl.kernels.adamw_step
    return lambda: step(params, grads, first, second, lr=1e-3, step=1, max_norm=1.0)


def _adam_numpy(arrays: Arrays) -> Call:
    slots = list(zip(arrays["params"], arrays["grads"], arrays["first"], arrays["second"]))

    def call() -> None:
        for param, grad, first, second in slots:
            first += 0.1 * (grad - first)
            second += 0.001 * (grad * grad - second)
            param -= 1e-3 * (first / 0.1) / (np.sqrt(second / 0.001) + 1e-8)

    return call


def _sgd(arrays: Arrays) -> Call:
    params, grads, first = (arrays[n] for n in ("params", "grads", "first"))
    step = hl.kernels.sgd_step
    return lambda: step(params, grads, first, lr=1e-3, step=2, momentum=0.9)


def _sgd_numpy(arrays: Arrays) -> Call:
    slots = list(zip(arrays["params"], arrays["grads"], arrays["first"]))

    def call() -> None:
        for param, grad, first in slots:
            np.add(np.multiply(first, 0.9, out=first), grad, out=first)
            param -= 1e-3 * first

    return call


def _torch(kind: str, **how: Any) -> Build:
    def make(torch: Any, t: dict[str, Any]) -> Call:
        params = [torch.from_numpy(value).requires_grad_() for value in t["params"]]
        for param, grad in zip(params, t["grads"]):
            param.grad = torch.from_numpy(grad)
        optimizer = getattr(torch.optim, kind)(params, lr=1e-3, **how)
        step: Call = optimizer.step
        return step

    return torch_call(make)


def _torch_clipped(torch: Any, t: dict[str, Any]) -> Call:
    params = [torch.from_numpy(value).requires_grad_() for value in t["params"]]
    grads = [torch.from_numpy(grad) for grad in t["grads"]]
    for param, grad in zip(params, grads):
        param.grad = grad
    optimizer = torch.optim.AdamW(params, lr=1e-3, fused=True)

    def call() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    return call


def _cases(label: str, shapes: tuple[tuple[int, ...], ...]) -> list[Case]:
    size = float(sum(int(np.prod(shape)) for shape in shapes))
    large = size > 1e6
    shared: dict[str, Any] = {
        "family": "optimizer",
        "inputs": _inputs(shapes),
        "compare": False,  # every call moves the parameters on
        "ceiling": "update" if large else "",
    }
    return [
        Case(
            name=f"adam_step, {label}",
            contenders={
                "hotloop": _adam,
                "numpy": _adam_numpy,
                "torch": {"fused": _torch("Adam", fused=True), "eager": _torch("Adam")},
            },
            bytes=28 * size,
            touched=16 * size,
            target=Target("torch", 1.05 if large else 1.5),
            quick=not large and len(shapes) < 10,
            **shared,
        ),
        Case(
            name=f"adamw_step, {label}",
            contenders={
                "hotloop": _adamw,
                "torch": {"fused": _torch("AdamW", fused=True), "eager": _torch("AdamW")},
            },
            bytes=28 * size,
            touched=16 * size,
            target=Target("torch", 1.05 if large else 1.5),
            **shared,
        ),
        Case(
            name=f"sgd_step with momentum, {label}",
            contenders={
                "hotloop": _sgd,
                "numpy": _sgd_numpy,
                "torch": {
                    "fused": _torch("SGD", momentum=0.9, fused=True),
                    "eager": _torch("SGD", momentum=0.9),
                },
            },
            bytes=20 * size,
            touched=12 * size,
            target=Target("torch", 1.05 if large else 1.5),
            **shared,
        ),
        Case(
            name=f"adamw_step with clipping, {label}",
            contenders={"hotloop": _adamw_clipped, "torch": torch_call(_torch_clipped)},
            bytes=32 * size,
            touched=16 * size,
            **shared,
        ),
    ]


CASES = [case for label, shapes in NETWORKS.items() for case in _cases(label, shapes)]
