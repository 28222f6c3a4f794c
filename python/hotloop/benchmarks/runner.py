"""Times the cases: rounds interleaved over the contenders, medians of the rounds compared."""

from __future__ import annotations

import datetime
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from .case import CEILING, OURS, Case
from .ceilings import share_of_probe
from .gauge import Gauge
from .rivals import BenchError, Rival


@dataclass
class Row:
    """One line of the table: seconds of a call for every contender."""

    case: Case
    times: dict[str, float] = field(default_factory=dict)
    variants: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    disturbed: int = 0  # timings of a slow spell of the machine that no better one could replace
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())

    def ratio(self, contender: str) -> float | None:
        """The contender's time over ours: above 1 we are faster. "best": the fastest rival's."""
        rivals = [t for name, t in self.times.items() if name not in OURS]
        best = min(rivals, default=None)
        ours = self.times.get("hotloop")
        other = best if contender == "best" else self.times.get(contender)
        return other / ours if ours and other else None

    @property
    def met(self) -> bool | None:
        """Whether the promised figure is reached; None where none is promised or none was timed."""
        if self.case.target is None:
            return None
        target = self.case.target
        ratio, share = self.ratio(target.rival), self.ratio("ceiling")
        if target.ceiling is not None and share is not None and share >= target.ceiling:
            return True
        return None if ratio is None else ratio >= target.ratio


def assert_equal_results(case: Case, contender: str, ours: str, theirs: str) -> None:
    """Raises BenchError where a contender computed something else."""
    with np.load(ours) as first, np.load(theirs) as second:
        for name in first.files:
            expected, actual = first[name], second[name] if name in second.files else None
            if actual is None or actual.size != expected.size:
                raise BenchError(f"bench: {case.key}: {contender} gives another shape than hotloop")
            actual = actual.reshape(expected.shape)
            if expected.dtype.kind in "bui":  # have no difference, or one that wraps around
                expected, actual = expected.astype(np.float64), actual.astype(np.float64)
            scale = float(np.max(np.abs(expected), initial=0.0)) or 1.0
            error = float(np.max(np.abs(actual - expected), initial=0.0)) / scale
            if not error <= case.rtol:
                raise BenchError(
                    f"bench: {case.key}: {contender} differs from hotloop by {error:.2g} of the "
                    f"largest element, allowed {case.rtol:.2g}"
                )


def _load(case: Case, contenders: dict[str, Rival], row: Row, folder: str) -> dict[str, Rival]:
    """Those contenders that have the case, loaded and agreeing with us."""
    loaded: dict[str, Rival] = {}
    beside = bool(case.over) and CEILING in contenders
    for name, rival in contenders.items():
        if not (case.ceiling and not case.over if name == CEILING else case.builds(name)):
            continue
        result = os.path.join(folder, f"{name}.npz")
        try:
            if beside and name == "hotloop":
                rival.load(case, result, ceiling=True)
            else:
                rival.load(case, result)
        except BenchError as error:
            if name == "hotloop":
                raise
            row.failures[name] = str(error)
            continue
        loaded[name] = rival
        if name not in ("hotloop", CEILING) and case.compare:
            assert_equal_results(case, name, os.path.join(folder, "hotloop.npz"), result)
    return loaded


_TRIES = 4  # to time a contender in a round at the machine's full rate


def _time(rival: Rival, seconds: float, gauge: Gauge | None) -> tuple[dict[str, float], bool]:
    """Seconds per variant, and whether the machine ran at full rate before and after."""
    if gauge is None:
        return rival.time(seconds), True
    for _ in range(_TRIES):
        full = gauge.wait()
        taken = rival.time(seconds)
        if full and gauge.full():
            return taken, True
    return taken, False


def run(
    table: Iterable[Case],
    contenders: dict[str, Rival],
    *,
    rounds: int = 5,
    seconds: float = 0.15,
    gauge: Gauge | None = None,
    progress: Callable[[Row], None] | None = None,
) -> list[Row]:
    """One Row per case; with a gauge, what fell into a slow spell of the machine is timed again.

    Raises BenchError when a result differs.
    """
    rows = []
    for case in table:
        row = Row(case)
        with tempfile.TemporaryDirectory(prefix="hotloop-bench-") as folder:
            loaded = _load(case, contenders, row, folder)
        samples: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for name, rival in loaded.items():
                times, full = _time(rival, seconds, gauge)
                row.disturbed += not full
                for variant, taken in times.items():
                    beside = name == "hotloop" and variant == CEILING
                    key = (CEILING, "") if beside else (name, variant)
                    samples.setdefault(key, []).append(taken)
        for (name, variant), taken_rounds in samples.items():
            if name == CEILING:
                taken_rounds = [taken * share_of_probe(case) for taken in taken_rounds]
            median = statistics.median(taken_rounds)
            if name not in row.times or median < row.times[name]:
                row.times[name], row.variants[name] = median, variant
                row.rounds[name] = taken_rounds
        rows.append(row)
        if progress is not None:
            progress(row)
    return rows
