"""Metrics that take batch after batch and weigh every sample alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from hotloop.metrics.functions import confusion_matrix, pair, scores
from hotloop.metrics.labels import Array

__all__ = ["F1", "Accuracy", "ConfusionMatrix", "Mean", "Metric", "Precision", "Recall"]


class Metric:
    """Base class: `update` for each batch, `compute` at any time, `reset` for the next epoch."""

    name = "metric"

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        raise NotImplementedError

    def update(self, predictions: Any, targets: Any) -> None:
        """Takes in one batch; shapes as for `hl.metrics.accuracy`."""
        raise NotImplementedError

    def compute(self) -> Any:
        """The metric over everything since the last reset; NaN when there was nothing."""
        raise NotImplementedError


class Mean(Metric):
    """The mean of numbers, each with a weight (the size of its batch)."""

    name = "mean"

    def reset(self) -> None:
        self.total = 0.0
        self.weight = 0.0

    def update(self, value: Any, weight: Any = 1) -> None:
        """Takes in one number."""
        self.total += float(value) * float(weight)
        self.weight += float(weight)

    def compute(self) -> float:
        return self.total / self.weight if self.weight else float("nan")


class Accuracy(Metric):
    """The share of samples that are right.

    Args:
        logits: a single column of predictions holds logits.
    """

    name = "accuracy"

    def __init__(self, *, logits: bool = False) -> None:
        self.logits = logits
        super().__init__()

    def reset(self) -> None:
        self.right = 0
        self.samples = 0

    def update(self, predictions: Any, targets: Any) -> None:
        predicted, wanted = pair(predictions, targets, self.logits)
        self.right += int(np.count_nonzero(predicted == wanted))
        self.samples += len(wanted)

    def compute(self) -> float:
        return self.right / self.samples if self.samples else float("nan")


class ConfusionMatrix(Metric):
    """Counts (C, C): row = true class, column = predicted class.

    Args:
        num_classes: C; by default it grows with the labels.
        logits: a single column of predictions holds logits.
    """

    name = "confusion_matrix"

    def __init__(self, num_classes: int | None = None, *, logits: bool = False) -> None:
        self.num_classes = num_classes
        self.logits = logits
        super().__init__()

    def reset(self) -> None:
        size = self.num_classes or 0
        self.matrix: Array = np.zeros((size, size), dtype=np.int64)

    def update(self, predictions: Any, targets: Any) -> None:
        new = confusion_matrix(
            predictions, targets, num_classes=self.num_classes, logits=self.logits
        )
        if len(new) < len(self.matrix):
            new, self.matrix = self.matrix, new
        grown = new.copy()
        grown[: len(self.matrix), : len(self.matrix)] += self.matrix
        self.matrix = grown

    def compute(self) -> Array:
        return self.matrix


class _Score(ConfusionMatrix):
    """A score that follows from the confusion matrix."""

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        average: str | None = "macro",
        logits: bool = False,
    ) -> None:
        self.average = average
        super().__init__(num_classes, logits=logits)

    def compute(self) -> Any:
        if not self.matrix.any():
            return float("nan")
        return scores(self.matrix, self.name, self.average)


class Precision(_Score):
    """Streaming `precision`."""

    name = "precision"


class Recall(_Score):
    """Streaming `recall`."""

    name = "recall"


class F1(_Score):
    """Streaming `f1_score`."""

    name = "f1"
