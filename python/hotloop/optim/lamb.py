"""LAMB."""

from __future__ import annotations

from typing import Any

from hotloop import kernels
from hotloop.optim.optimizer import Array, Optimizer, ParamsLike, plain

__all__ = ["LAMB"]


class LAMB(Optimizer):
    """LAMB (You et al., ICLR 2020): Adam's direction, its length that of each parameter.

    With m and v as in `Adam`, `u = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + wd p;
    p -= lr |p| / |u| u`, norms over each tensor, the quotient 1 where one of them is 0.

    Args:
        params: tensors, or dicts of a group's "params" and its own options.
        lr: learning rate; a 0-d array is read anew at each step.
        betas, eps, weight_decay: see above.
        maximize: go up the gradient.
        capturable: as in `Adam`.

    Raises:
        TypeError: params that are no tensors, an unknown option in a group.
        ValueError: no parameters, one twice, an option out of range or not supported.
    """

    _slots = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: ParamsLike,
        lr: float | Array = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _update(
        self, group: dict[str, Any], count: Any, common: dict[str, Any], columns: list[list[Array]]
    ) -> None:
        kernels.lamb_step(
            *columns,
            lr=plain(group["lr"]),
            step=count,
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            **common,
        )
