"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np

from hotloop import kernels
from hotloop.autograd import wrap
from hotloop.optim.optimizer import Array, Optimizer, ParamsLike, plain

__all__ = ["SGD"]


class SGD(Optimizer):
    """SGD with momentum as in PyTorch: `b = momentum * b + (1 - dampening) * g; p -= lr * b`.

    Here `g` is the gradient plus `weight_decay * p`; the first step sets `b = g`; with `nesterov`
    the update is `lr * (g + momentum * b)`.

    Args:
        params: tensors, or dicts of a group's "params" and its own options.
        lr: learning rate; a 0-d array is read anew at each step.
        momentum, dampening, weight_decay, nesterov: see above.
        maximize: go up the gradient.
        differentiable: only False.
        foreach, fused: accepted and ignored; a step is always one call per group.

    Raises:
        TypeError: params that are no tensors, an unknown option in a group.
        ValueError: no parameters, one twice, an option out of range or not supported.
    """

    def __init__(
        self,
        params: ParamsLike,
        lr: float | Array = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    _slots = ("momentum_buffer",)

    def _check_options(self, group: dict[str, Any]) -> None:
        super()._check_options(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                "SGD: nesterov must have momentum > 0 and dampening 0, got "
                f"momentum={group['momentum']}, dampening={group['dampening']}"
            )

    def _state_arrays(
        self, state: dict[str, Any], data: Array, group: dict[str, Any], names: tuple[str, ...]
    ) -> list[Array]:
        # The count is that of the buffer: its first step fills it. None is kept without momentum.
        if group["momentum"] == 0:
            state["step"] = 0
            return []
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = wrap(np.zeros_like(data, order="C"))
            state["step"] = 0
        return [state["momentum_buffer"]._data]

    def _update(
        self, group: dict[str, Any], count: Any, common: dict[str, Any], columns: list[list[Array]]
    ) -> None:
        kernels.sgd_step(
            *columns,
            lr=plain(group["lr"]),
            step=min(count, 2),
            momentum=group["momentum"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            weight_decay=group["weight_decay"],
            **common,
        )
