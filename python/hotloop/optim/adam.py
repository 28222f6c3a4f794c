"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

from hotloop import kernels
from hotloop.optim.optimizer import Array, Optimizer, ParamsLike, plain

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015), with the weight decay added to the gradient.

    `m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    p -= lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)`

    Args:
        params: tensors, or dicts of a group's "params" and its own options.
        lr: learning rate; a 0-d array is read anew at each step.
        betas, eps, weight_decay: see above; with decoupled_weight_decay as in `AdamW`.
        amsgrad: divide by the root of the largest v so far.
        maximize: go up the gradient.
        capturable: count steps in a tensor beside the parameters, so that a recorded step of a GPU
            counts itself when it is replayed; lr is then best a tensor there too.
        differentiable: only False.
        foreach, fused: accepted and ignored; a step is always one call per group.

    Raises:
        TypeError: params that are no tensors, an unknown option in a group.
        ValueError: no parameters, one twice, an option out of range or not supported.
    """

    _slots = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self,
        params: ParamsLike,
        lr: float | Array = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def _slots_of(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self._slots if group["amsgrad"] else self._slots[:2]

    def _update(
        self, group: dict[str, Any], count: Any, common: dict[str, Any], columns: list[list[Array]]
    ) -> None:
        step = kernels.adamw_step if group["decoupled_weight_decay"] else kernels.adam_step
        step(
            *columns,
            lr=plain(group["lr"]),
            step=count,
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            **common,
        )


class AdamW(Adam):
    """Adam with decoupled decay (Loshchilov and Hutter, ICLR 2019): first `p -= lr * wd * p`.

    Arguments and errors as for `Adam`; `weight_decay` is 0.01 by default.
    """

    def __init__(
        self,
        params: ParamsLike,
        lr: float | Array = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )
