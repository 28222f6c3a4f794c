"""Metrics of classification: functions over all predictions, and accumulators over batches."""

from hotloop.metrics.functions import accuracy, confusion_matrix, f1_score, precision, recall
from hotloop.metrics.labels import to_labels
from hotloop.metrics.streaming import (
    F1,
    Accuracy,
    ConfusionMatrix,
    Mean,
    Metric,
    Precision,
    Recall,
)

__all__ = [
    "F1",
    "Accuracy",
    "ConfusionMatrix",
    "Mean",
    "Metric",
    "Precision",
    "Recall",
    "accuracy",
    "confusion_matrix",
    "f1_score",
    "precision",
    "recall",
    "to_labels",
]
