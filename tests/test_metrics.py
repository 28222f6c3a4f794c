"""Metrics: against scikit-learn, in every shape that labels come in, whole and batch by batch."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import metrics
from hotloop.metrics import accuracy, confusion_matrix, f1_score, precision, recall, to_labels

TRUE = np.array([0, 1, 2, 2, 1, 0, 2, 2])
GUESS = np.array([0, 2, 2, 2, 1, 1, 0, 2])


def shapes_of(labels, classes):
    """The same labels in every accepted shape."""
    one_hot = np.eye(classes, dtype=np.float32)[labels]
    return {
        "(N,)": labels,
        "(N, 1)": labels[:, None],
        "int32": labels.astype(np.int32),
        "whole floats": labels.astype(np.float32),
        "one-hot": one_hot,
        "one-hot of bool": one_hot.astype(bool),
        "logits": 5 * one_hot - 7,
        "tensor": hl.from_numpy(one_hot),
        "list": labels.tolist(),
    }


@pytest.mark.parametrize("left", shapes_of(GUESS, 3))
@pytest.mark.parametrize("right", shapes_of(TRUE, 3))
def test_every_shape_gives_the_same(left, right):
    guess, true = shapes_of(GUESS, 3)[left], shapes_of(TRUE, 3)[right]
    assert accuracy(guess, true) == 5 / 8
    np.testing.assert_array_equal(confusion_matrix(guess, true), [[1, 1, 0], [0, 1, 1], [1, 0, 3]])


def test_single_columns_are_thresholded():
    true = np.array([0, 1, 1, 0])
    assert accuracy(np.array([0.2, 0.9, 0.5, 0.1]), true) == 3 / 4  # 0.5 counts as class 0
    assert accuracy(np.array([[0.2], [0.9], [0.6], [0.1]]), true) == 1
    assert accuracy(np.array([-3.0, 2.0, 0.1, -0.1]), true, logits=True) == 1
    with pytest.raises(ValueError, match="logits=True"):
        accuracy(np.array([-3.0, 2.0, 0.1, -0.1]), true)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
def test_scores_are_those_of_scikit_learn(rng, classes, average):
    sklearn = pytest.importorskip("sklearn.metrics")
    for size in (1, 5, 50, 400):
        true = rng.integers(0, classes, size)
        guess = np.where(rng.random(size) < 0.6, true, rng.integers(0, classes, size))
        labels = None if average else range(int(max(true.max(), guess.max())) + 1)
        options = {"average": average, "zero_division": 0, "labels": labels}
        for ours, theirs in (
            (precision, sklearn.precision_score),
            (recall, sklearn.recall_score),
            (f1_score, sklearn.f1_score),
        ):
            np.testing.assert_allclose(
                ours(guess, true, average=average), theirs(true, guess, **options), rtol=1e-12
            )
        np.testing.assert_array_equal(
            confusion_matrix(guess, true, num_classes=classes),
            sklearn.confusion_matrix(true, guess, labels=range(classes)),
        )
        assert accuracy(guess, true) == pytest.approx(sklearn.accuracy_score(true, guess))


def test_binary_scores_are_of_class_1():
    true, guess = np.array([0, 1, 1, 1, 0]), np.array([1, 1, 0, 1, 0])
    assert precision(guess, true, average="binary") == pytest.approx(2 / 3)
    assert recall(guess, true, average="binary") == pytest.approx(2 / 3)
    assert f1_score(guess, true, average="binary") == pytest.approx(2 / 3)
    assert f1_score(true * 0, true * 0, average="binary") == 0
    with pytest.raises(ValueError, match="2 classes, got 3"):
        f1_score(GUESS, TRUE, average="binary")


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batch_by_batch_is_the_whole(batch):
    whole = {
        metrics.Accuracy: accuracy(GUESS, TRUE),
        metrics.ConfusionMatrix: confusion_matrix(GUESS, TRUE),
        metrics.Precision: precision(GUESS, TRUE),
        metrics.Recall: recall(GUESS, TRUE),
        metrics.F1: f1_score(GUESS, TRUE),
    }
    for kind, expected in whole.items():
        metric = kind()
        for _ in range(2):
            metric.reset()
            for start in range(0, len(TRUE), batch):
                metric.update(GUESS[start : start + batch], TRUE[start : start + batch])
            np.testing.assert_allclose(metric.compute(), expected, rtol=1e-12)


def test_confusion_matrices_grow_and_shrink_not():
    matrix = metrics.ConfusionMatrix()
    matrix.update([4], [4])
    matrix.update([0], [1])
    matrix.update([5], [0])
    assert matrix.compute().shape == (6, 6)
    assert matrix.compute().sum() == 3
    fixed = metrics.ConfusionMatrix(3)
    with pytest.raises(ValueError, match="below num_classes 3, got 4"):
        fixed.update([4], [0])
    assert fixed.compute().shape == (3, 3)
    assert confusion_matrix(np.eye(4), [0, 1, 0, 1]).shape == (4, 4)


def test_the_mean_weighs():
    mean = metrics.Mean()
    assert np.isnan(mean.compute())
    mean.update(1.0, 32)
    mean.update(4.0, 1)
    assert mean.compute() == pytest.approx(36 / 33)


def test_nothing_seen_is_nan():
    for kind in (metrics.Accuracy, metrics.F1, metrics.Precision, metrics.Recall):
        assert np.isnan(kind().compute())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: accuracy([], []), "accuracy: at least one sample"),
        (lambda: accuracy([1, 2], [1]), "one length, got 2 and 1"),
        (lambda: accuracy(np.zeros((2, 3, 4)), [0, 0]), r"\(2, 3, 4\)"),
        (lambda: accuracy(3, [0]), r"shape \(N,\)"),
        (lambda: accuracy([-1], [0]), "must be >= 0, got -1"),
        (lambda: accuracy([np.nan], [0]), "finite"),
        (lambda: accuracy([[np.nan, 1]], [0]), "NaN"),
        (lambda: f1_score([], []), "at least one sample"),
        (lambda: f1_score([0], [0], average="mean"), "average must be one of"),
        (lambda: confusion_matrix([3], [0], num_classes=2), "below num_classes 2, got 3"),
    ],
)
def test_errors_say_what_is_wrong(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_text_is_no_label():
    with pytest.raises(TypeError, match="must be numbers"):
        to_labels(np.array(["cat"]))
