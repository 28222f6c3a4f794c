"""Losses as modules."""

from __future__ import annotations

from ..ops.loss import cross_entropy, mse_loss
from ..tensor import Tensor
from .module import Module
from .parameter import Buffer

__all__ = ["CrossEntropyLoss", "MSELoss"]


def _reduction(layer: str, reduction: str) -> str:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f'{layer}: reduction must be "none", "mean" or "sum", got {reduction!r}')
    return reduction


class CrossEntropyLoss(Module):
    """-log(softmax(logits))[label]; takes logits (n, classes), not their softmax."""

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = None if weight is None else Buffer(weight)
        self.ignore_index = ignore_index
        self.reduction = _reduction("CrossEntropyLoss", reduction)
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class MSELoss(Module):
    """(input - target)**2, averaged, summed or as it is; the shapes must be equal."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = _reduction("MSELoss", reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return mse_loss(input, target, self.reduction)
