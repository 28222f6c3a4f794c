"""RMSprop."""

from __future__ import annotations

import math
from typing import Any

from hotloop import kernels
from hotloop.optim.optimizer import Array, Optimizer, ParamsLike, plain

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton, 2012) as in PyTorch.

    `s = alpha s + (1 - alpha) g^2; d = g / (sqrt(s) + eps)`; with momentum `b = momentum b + d`
    takes the place of d; `p -= lr d`. Centred, the root is that of `s - mean(g)^2`. The weight
    decay is added to the gradient.

    Args:
        params: tensors, or dicts of a group's "params" and its own options.
        lr: learning rate; a 0-d array is read anew at each step.
        alpha, eps, weight_decay, momentum, centered: see above.
        maximize: go up the gradient.
        capturable: count steps in a tensor beside the parameters, so that a recorded step of a GPU
            counts itself when it is replayed; lr is then best a tensor there too.
        differentiable: only False.
        foreach: accepted and ignored; a step is always one call per group.

    Raises:
        TypeError: params that are no tensors, an unknown option in a group.
        ValueError: no parameters, one twice, an option out of range or not supported.
    """

    _slots = ("square_avg", "momentum_buffer", "grad_avg")

    def __init__(
        self,
        params: ParamsLike,
        lr: float | Array = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _slots_of(self, group: dict[str, Any]) -> tuple[str, ...]:
        used = (True, group["momentum"] > 0, group["centered"])
        return tuple(name for name, use in zip(self._slots, used) if use)

    def _check_options(self, group: dict[str, Any]) -> None:
        super()._check_options(group)
        self._check_range("alpha", group["alpha"], 0.0, math.inf)

    def _update(
        self, group: dict[str, Any], count: Any, common: dict[str, Any], columns: list[list[Array]]
    ) -> None:
        names = self._slots_of(group)
        state = dict(zip(names, columns[2:]))
        kernels.rmsprop_step(
            columns[0],
            columns[1],
            state["square_avg"],
            state.get("momentum_buffer"),
            state.get("grad_avg"),
            lr=plain(group["lr"]),
            alpha=group["alpha"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            **common,
        )
