"""Losses as modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ..ops import loss as _loss
from ..tensor import Tensor
from .module import Module
from .parameter import Buffer

__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "HingeEmbeddingLoss", "HuberLoss",
    "KLDivLoss", "L1Loss", "MSELoss", "NLLLoss", "SmoothL1Loss",
]  # fmt: skip


def _reduction(layer: str, reduction: str, *more: str) -> str:
    if reduction not in ("none", "mean", "sum", *more):
        raise ValueError(f'{layer}: reduction must be "none", "mean" or "sum", got {reduction!r}')
    return reduction


def _buffer(weight: Tensor | None) -> Buffer | None:
    return None if weight is None else Buffer(weight)


class CrossEntropyLoss(Module):
    """-log(softmax(logits))[label]; takes logits (n, classes, ...), not their softmax.

    The target holds labels, or probabilities in the shape of the logits.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight = _buffer(weight)
        self.ignore_index = ignore_index
        self.reduction = _reduction("CrossEntropyLoss", reduction)
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return _loss.cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(Module):
    """-input[label] for log-probabilities (n, classes, ...)."""

    def __init__(
        self, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__()
        self.weight = _buffer(weight)
        self.ignore_index = ignore_index
        self.reduction = _reduction("NLLLoss", reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return _loss.nll_loss(input, target, self.weight, self.ignore_index, self.reduction)


class _PairLoss(Module):
    """A loss of pairs of elements whose only option is the reduction."""

    _function: ClassVar[Callable[..., Tensor]]

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = _reduction(type(self).__name__, reduction)

    def _options(self) -> dict[str, Any]:
        return {}

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return type(self)._function(input, target, reduction=self.reduction, **self._options())


class MSELoss(_PairLoss):
    """(input - target)**2, averaged, summed or as it is; the shapes must be equal."""

    _function = staticmethod(_loss.mse_loss)


class L1Loss(_PairLoss):
    """|input - target|, averaged, summed or as it is; the shapes must be equal."""

    _function = staticmethod(_loss.l1_loss)


class HuberLoss(_PairLoss):
    """Half the squared error up to delta, delta times the absolute one (less delta / 2) beyond."""

    _function = staticmethod(_loss.huber_loss)

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def _options(self) -> dict[str, Any]:
        return {"delta": self.delta}


class SmoothL1Loss(_PairLoss):
    """The absolute error, rounded off below beta."""

    _function = staticmethod(_loss.smooth_l1_loss)

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def _options(self) -> dict[str, Any]:
        return {"beta": self.beta}


class BCELoss(_PairLoss):
    """The binary cross entropy of probabilities; `BCEWithLogitsLoss` has the better numbers."""

    _function = staticmethod(_loss.binary_cross_entropy)

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = _buffer(weight)

    def _options(self) -> dict[str, Any]:
        return {"weight": self.weight}


class BCEWithLogitsLoss(_PairLoss):
    """The binary cross entropy of sigmoid(input)."""

    _function = staticmethod(_loss.binary_cross_entropy_with_logits)

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__(reduction)
        self.weight = _buffer(weight)
        self.pos_weight = _buffer(pos_weight)

    def _options(self) -> dict[str, Any]:
        return {"weight": self.weight, "pos_weight": self.pos_weight}


class HingeEmbeddingLoss(_PairLoss):
    """input where the target is 1, max(0, margin - input) where it is -1."""

    _function = staticmethod(_loss.hinge_embedding_loss)

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def _options(self) -> dict[str, Any]:
        return {"margin": self.margin}


class KLDivLoss(Module):
    """target (log(target) - input) for log-probabilities; "batchmean" is the divergence itself."""

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__()
        self.reduction = _reduction("KLDivLoss", reduction, "batchmean")
        self.log_target = log_target

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return _loss.kl_div(input, target, self.reduction, self.log_target)
