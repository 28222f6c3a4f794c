"""NAdam."""

from __future__ import annotations

from typing import Any

from hotloop import kernels
from hotloop.optim.optimizer import Array, Optimizer, ParamsLike, plain

__all__ = ["NAdam"]


class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat, 2016).

    `mu_t = b1 (1 - 0.96^(t psi) / 2)`, psi the momentum_decay; m and v as in `Adam`;
    `d = (1 - mu_t) / (1 - M) g + mu_{t+1} / (1 - M mu_{t+1}) m`, M the product of mu_1 to mu_t;
    `p -= lr d / (sqrt(v / (1 - b2^t)) + eps)`.

    Args:
        params: tensors, or dicts of a group's "params" and its own options.
        lr: learning rate; a 0-d array is read anew at each step.
        betas, eps, momentum_decay: see above.
        weight_decay: added to the gradient, or with decoupled_weight_decay as in `AdamW`.
        maximize: go up the gradient.
        capturable, differentiable: only False.
        foreach: accepted and ignored; a step is always one call per group.

    Raises:
        TypeError: params that are no tensors, an unknown option in a group.
        ValueError: no parameters, one twice, an option out of range or not supported.
    """

    _slots = ("exp_avg", "exp_avg_sq")
    _unsupported = ("capturable", "differentiable")

    def __init__(
        self,
        params: ParamsLike,
        lr: float | Array = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _count(self, state: dict[str, Any], group: dict[str, Any]) -> Any:
        step = state["step"] + 1
        mu = group["betas"][0] * (1.0 - 0.5 * 0.96 ** (step * group["momentum_decay"]))
        return step, state.get("mu_product", 1.0) * mu

    def _advance(self, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"], state["mu_product"] = self._count(state, group)

    def _update(
        self, group: dict[str, Any], count: Any, common: dict[str, Any], columns: list[list[Array]]
    ) -> None:
        step, mu_product = count
        kernels.nadam_step(
            *columns,
            lr=plain(group["lr"]),
            step=step,
            mu_product=mu_product,
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            momentum_decay=group["momentum_decay"],
            decoupled_weight_decay=group["decoupled_weight_decay"],
            **common,
        )
