"""Metrics of one set of predictions. All accept what `to_labels` accepts, for both sides."""

from __future__ import annotations

from typing import Any

import numpy as np

from hotloop.metrics.labels import Array, to_labels

__all__ = ["accuracy", "confusion_matrix", "f1_score", "pair", "precision", "recall", "scores"]

AVERAGES = ("macro", "micro", "weighted", "binary", None)


def accuracy(predictions: Any, targets: Any, *, logits: bool = False) -> float:
    """The share of predictions that are right.

    Args:
        predictions: labels, probabilities, one-hot rows or logits: (N,), (N, 1) or (N, C).
        targets: labels or one-hot rows.
        logits: a single column of predictions holds logits.

    Raises:
        ValueError: different lengths, no samples, or values that are no labels.
    """
    predicted, wanted = pair(predictions, targets, logits)
    if not wanted.size:
        raise ValueError("accuracy: at least one sample is needed, got none; check the data")
    return float(np.mean(predicted == wanted))


def confusion_matrix(
    predictions: Any, targets: Any, *, num_classes: int | None = None, logits: bool = False
) -> Array:
    """Counts (C, C): row = true class, column = predicted class, as in scikit-learn.

    Args:
        predictions, targets, logits: as for `accuracy`.
        num_classes: C; by default one more than the largest label (or the number of columns).

    Raises:
        ValueError: different lengths, or a label that is not below num_classes.
    """
    predicted, wanted = pair(predictions, targets, logits)
    largest = max((int(a.max()) for a in (predicted, wanted) if a.size), default=-1)
    columns = [v.shape[1] for v in (predictions, targets) if len(getattr(v, "shape", ())) == 2]
    if num_classes is None:
        num_classes = max([largest + 1, *columns])
    if largest >= num_classes:
        raise ValueError(
            f"confusion_matrix: labels must be below num_classes {num_classes}, got {largest}"
        )
    counts = np.bincount(wanted * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def precision(
    predictions: Any, targets: Any, *, average: str | None = "macro", logits: bool = False
) -> Any:
    """Of the predictions of a class, the share that is right; 0 where a class is never predicted.

    Args:
        predictions, targets, logits: as for `accuracy`.
        average: "macro" (mean over the classes that occur), "weighted" (by their frequency),
            "micro" (over all samples), "binary" (of class 1), or None: an array, one per class.
    """
    return scores(confusion_matrix(predictions, targets, logits=logits), "precision", average)


def recall(
    predictions: Any, targets: Any, *, average: str | None = "macro", logits: bool = False
) -> Any:
    """Of the samples of a class, the share that is found; arguments as for `precision`."""
    return scores(confusion_matrix(predictions, targets, logits=logits), "recall", average)


def f1_score(
    predictions: Any, targets: Any, *, average: str | None = "macro", logits: bool = False
) -> Any:
    """The harmonic mean of precision and recall; arguments as for `precision`."""
    return scores(confusion_matrix(predictions, targets, logits=logits), "f1", average)


def pair(predictions: Any, targets: Any, logits: bool) -> tuple[Array, Array]:
    """Both sides as labels of one length."""
    predicted = to_labels(predictions, logits=logits, name="predictions")
    wanted = to_labels(targets, name="targets")
    if len(predicted) != len(wanted):
        raise ValueError(
            f"metrics: predictions and targets must have one length, got {len(predicted)} and "
            f"{len(wanted)}; compare them sample by sample"
        )
    return predicted, wanted


def scores(matrix: Array, what: str, average: str | None) -> Any:
    """Precision, recall or F1 from a confusion matrix."""
    if average not in AVERAGES:
        raise ValueError(f"metrics: average must be one of {AVERAGES}, got {average!r}")
    right = np.diag(matrix).astype(np.float64)
    predicted, actual = matrix.sum(axis=0), matrix.sum(axis=1)
    if average == "micro":
        right, predicted, actual = right.sum(), predicted.sum(), actual.sum()
    # F1 = 2 right / (predicted + actual): defined wherever a class occurs at all.
    above, below = {
        "precision": (right, predicted),
        "recall": (right, actual),
        "f1": (2 * right, predicted + actual),
    }[what]
    values = np.divide(above, below, out=np.zeros_like(right), where=np.asarray(below) > 0)
    if average is None:
        return values
    if average == "micro":
        return float(values)
    if average == "binary":
        if len(values) > 2:
            raise ValueError(
                f'metrics: average="binary" must have 2 classes, got {len(values)}; use "macro"'
            )
        return float(values[1]) if len(values) == 2 else 0.0
    present = (predicted + actual) > 0
    if not present.any():
        raise ValueError("metrics: at least one sample is needed, got none; check the data")
    weights = actual[present] if average == "weighted" else None
    return float(np.average(values[present], weights=weights))
