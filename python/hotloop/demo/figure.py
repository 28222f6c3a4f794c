"""The demo's picture: the curves of training, and the digits that were taken for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hotloop.demo.training import Outcome

__all__ = ["draw"]

SHOWN = 8


def draw(outcome: Outcome, path: Path) -> None:
    """Writes the picture as PNG; needs no display, as it draws without pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(5, 2))
    upper, lower = parts
    _curves(upper, outcome)
    _mistakes(lower, outcome)
    figure.savefig(path, format="png", dpi=100)


def _curves(figure: Any, outcome: Outcome) -> None:
    left, right = figure.subplots(1, 2)
    history = outcome.history
    epochs = range(1, len(history) + 1)
    for axes, name, title in ((left, "loss", "loss"), (right, "accuracy", "accuracy")):
        if len(history):
            axes.plot(epochs, history[name], ".-", label="training (distorted digits, dropout)")
            axes.plot(epochs, history[f"val_{name}"], ".-", label="test")
            axes.legend()
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    right.set_ylim(top=1.0)


def _mistakes(figure: Any, outcome: Outcome) -> None:
    wrong = np.flatnonzero(outcome.predictions != outcome.test_labels)
    total = len(outcome.test_labels)
    shown = f"; the first {SHOWN}" if len(wrong) > SHOWN else ""
    figure.suptitle(f"{len(wrong)} of {total} test digits misread (true → predicted){shown}")
    grid = figure.subplots(1, SHOWN)
    for axes in grid:
        axes.set_axis_off()
    for axes, index in zip(grid, wrong):
        axes.imshow(outcome.test_images[index, 0], cmap="gray_r")
        axes.set_title(f"{outcome.test_labels[index]} → {outcome.predictions[index]}")
