"""Adamax."""

from __future__ import annotations

from typing import Any

from hotloop import kernels
from hotloop.optim.optimizer import Array, Optimizer, ParamsLike, plain

__all__ = ["Adamax"]


class Adamax(Optimizer):
    """Adamax (Kingma and Ba, ICLR 2015): Adam with the largest gradient for the mean square.

    `m = b1 m + (1 - b1) g; u = max(b2 u, |g| + eps); p -= lr / (1 - b1^t) * m / u`; the weight
    decay is added to the gradient.

    Args:
        params: tensors, or dicts of a group's "params" and its own options.
        lr: learning rate; a 0-d array is read anew at each step.
        betas, eps, weight_decay: see above.
        maximize: go up the gradient.
        capturable: count steps in a tensor beside the parameters, so that a recorded step of a GPU
            counts itself when it is replayed; lr is then best a tensor there too.
        differentiable: only False.
        foreach: accepted and ignored; a step is always one call per group.

    Raises:
        TypeError: params that are no tensors, an unknown option in a group.
        ValueError: no parameters, one twice, an option out of range or not supported.
    """

    _slots = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params: ParamsLike,
        lr: float | Array = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _update(
        self, group: dict[str, Any], count: Any, common: dict[str, Any], columns: list[list[Array]]
    ) -> None:
        kernels.adamax_step(
            *columns,
            lr=plain(group["lr"]),
            step=count,
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            **common,
        )
