"""Lion."""

from __future__ import annotations

from typing import Any

from hotloop import kernels
from hotloop.optim.optimizer import Array, Optimizer, ParamsLike, plain

__all__ = ["Lion"]


class Lion(Optimizer):
    """Lion (Chen et al., 2023): steps of equal length, the sign of an interpolated momentum.

    `p *= 1 - lr wd; p -= lr sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g`. A good learning rate
    is three to ten times smaller than that of `AdamW`, a good weight decay as much larger.

    Args:
        params: tensors, or dicts of a group's "params" and its own options.
        lr: learning rate; a 0-d array is read anew at each step.
        betas, weight_decay: see above.
        maximize: go up the gradient.

    Raises:
        TypeError: params that are no tensors, an unknown option in a group.
        ValueError: no parameters, one twice, an option out of range or not supported.
    """

    _slots = ("exp_avg",)

    def __init__(
        self,
        params: ParamsLike,
        lr: float | Array = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _update(
        self, group: dict[str, Any], count: Any, common: dict[str, Any], columns: list[list[Array]]
    ) -> None:
        kernels.lion_step(
            *columns,
            lr=plain(group["lr"]),
            betas=group["betas"],
            weight_decay=group["weight_decay"],
            **common,
        )
