"""What stands above the table: the geometric means that were promised, and README's few rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from .case import Target
from .rivals import BenchError
from .runner import Row

_BEGIN, _END = "<!-- speed: begin -->", "<!-- speed: end -->"

README_ROWS = (
    "activation: relu of 8 f32, out=",
    "conv: forward 32x1@8->32 3x3",
    "conv: forward 32x32@8->64 3x3",
    "conv: forward 100x32@16->64 3x3",
    "gemm: 512x512x512 f32",
    "gemm: 1024x1024x1024 f32",
    "gemm: 2048x2048x2048 f32",
    "loss: cross-entropy and gradient (4096, 1000) f32",
    "norm: batch_norm forward of (32, 64, 112, 112) f32",
    "norm: layer_norm forward of (4096, 768) f32",
    "optimizer: adam_step, 2.2 M parameters in 4 tensors",
    "softmax: softmax of (4096, 1000) f32, out=",
    "training: MLP 784-64-64-10, batch 32, Adam",
)


def means(rows: Sequence[Row]) -> list[str]:
    """One line for each group of rows whose geometric mean was promised.

    It says as well what the mean were if every row took its ceiling's time: no code gives more.
    """
    groups: dict[tuple[str, Target], list[float]] = {}
    most: dict[tuple[str, Target], list[float]] = {}
    for row in rows:
        if row.case.mean is None:
            continue
        ratio = row.ratio(row.case.mean[1].rival)
        if ratio is not None:
            groups.setdefault(row.case.mean, []).append(ratio)
            if share := row.ratio("ceiling"):
                most.setdefault(row.case.mean, []).append(ratio / share)
    lines = []
    for (name, target), ratios in groups.items():
        mean = _geometric_mean(ratios)
        met = "met" if mean >= target.ratio else "MISSED"
        bounds = most.get((name, target), [])
        bound = (
            f"; {_geometric_mean(bounds):.2f}× at the ceiling" if len(bounds) == len(ratios) else ""
        )
        lines.append(
            f"{name} ({len(ratios)} rows): {mean:.2f}× {target.rival} "
            f"(promised {target.ratio}×: {met}{bound})"
        )
    return lines


def spreads(rows: Sequence[Row]) -> list[str]:
    """One line for each group of rows of which an even rate was promised.

    Each row's rate is taken over that of its plain way in the same rounds, which is one of the
    group: so a spell of the machine between two rows does not count.
    """
    groups: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        if row.case.spread is not None and (ratio := row.ratio("plain")) is not None:
            groups.setdefault(row.case.spread, [1.0]).append(ratio)
    lines = []
    for (name, share), rates in groups.items():
        found = min(rates) / max(rates)
        met = "met" if found >= share else "MISSED"
        lines.append(f"{name}, worst rate over best: {found:.3f} (promised {share}: {met})")
    return lines


def _geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def readme(text: str, table: str) -> str:
    """README.md's text with the table between its two marks. Raises BenchError without them."""
    found = re.sub(
        f"{_BEGIN}.*{_END}", lambda _: f"{_BEGIN}\n{table}\n{_END}", text, flags=re.DOTALL
    )
    if _BEGIN not in found or _END not in found:
        raise BenchError(f"bench: the README must hold {_BEGIN} and, after it, {_END}")
    return found
