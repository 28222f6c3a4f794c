"""Adagrad."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hotloop import kernels
from hotloop.autograd import wrap
from hotloop.optim.optimizer import Array, Optimizer, ParamsLike, plain

__all__ = ["Adagrad"]


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan and Singer, JMLR 2011).

    `s += g^2; p -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps)`; the weight decay is added
    to the gradient.

    Args:
        params: tensors, or dicts of a group's "params" and its own options.
        lr: learning rate; a 0-d array is read anew at each step.
        lr_decay, weight_decay, eps: see above.
        initial_accumulator_value: what s is before the first step.
        maximize: go up the gradient.
        differentiable: only False.
        foreach, fused: accepted and ignored; a step is always one call per group.

    Raises:
        TypeError: params that are no tensors, an unknown option in a group.
        ValueError: no parameters, one twice, an option out of range or not supported.
    """

    _slots = ("sum",)

    def __init__(
        self,
        params: ParamsLike,
        lr: float | Array = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _check_options(self, group: dict[str, Any]) -> None:
        super()._check_options(group)
        name = "initial_accumulator_value"
        self._check_range(name, group[name], 0.0, math.inf)

    def _state_arrays(
        self, state: dict[str, Any], data: Array, group: dict[str, Any], names: tuple[str, ...]
    ) -> list[Array]:
        if state.get("sum") is None:
            start = group["initial_accumulator_value"]
            state["sum"] = wrap(np.full_like(data, start, order="C"))
        return super()._state_arrays(state, data, group, names)

    def _update(
        self, group: dict[str, Any], count: Any, common: dict[str, Any], columns: list[list[Array]]
    ) -> None:
        kernels.adagrad_step(
            *columns,
            lr=plain(group["lr"]),
            step=count,
            lr_decay=group["lr_decay"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            **common,
        )
