"""What concerns whole processes: two of them on the same cores, and what the import costs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from .case import Case
from .cases import cases
from .rivals import BenchError, Rival

_SHARED = "512x512x512 f32"  # the product that both processes of the pair multiply


@dataclass
class Processes:
    """Shares of the speed alone for each process of the pair; milliseconds of the imports."""

    shares: tuple[float, float]
    import_hotloop: float
    import_numpy: float

    def lines(self) -> list[str]:
        """What a reader wants to know, each with what was promised."""
        first, second = (100 * share for share in self.shares)
        return [
            f"two processes on the same cores, each multiplying {_SHARED}: "
            f"{first:.0f} % and {second:.0f} % of their speed alone (promised: 40 %)",
            f"import: {self.import_hotloop:.1f} ms on top of NumPy's {self.import_numpy:.1f} ms "
            "(promised: 25 ms)",
        ]


def _product() -> Case:
    (case,) = (case for case in cases(["gemm"]) if case.name == _SHARED)
    return case


def neighbours(threads: int, rounds: int = 5, seconds: float = 1.0) -> tuple[float, float]:
    """Speed beside the other process over the speed alone, for both; medians of the rounds."""
    pair = [Rival("hotloop", threads), Rival("hotloop", threads)]
    try:
        for rival in pair:
            rival.load(_product(), "")
        shares: list[list[float]] = [[], []]
        for _ in range(rounds):
            alone = [rival.time(seconds)[""] for rival in pair]
            for rival in pair:
                rival.begin(seconds)
            together = [rival.end()[""] for rival in pair]
            for i in range(2):
                shares[i].append(alone[i] / together[i])
        first, second = (statistics.median(share) for share in shares)
        return first, second
    finally:
        for rival in pair:
            rival.close()


def import_milliseconds(rounds: int = 15) -> tuple[float, float]:
    """Median time that `import hotloop` takes after NumPy's, and NumPy's own, in new processes."""
    code = (
        "from time import perf_counter as now\n"
        "start = now(); import numpy\n"
        "middle = now(); import hotloop\n"
        "print(1e3 * (now() - middle), 1e3 * (middle - start))"
    )
    samples = []
    # What pip installs is compiled already; a source tree may not be, so a first run does it.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(prefix="hotloop-bench-") as folder:
        environment["PYTHONPYCACHEPREFIX"] = folder
        for _ in range(1 + rounds):
            run = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, env=environment
            )
            if run.returncode:
                raise BenchError(f"bench: import hotloop failed: {run.stderr.strip()}")
            samples.append([float(word) for word in run.stdout.split()])
    del samples[0]
    ours, numpys = (statistics.median(column) for column in zip(*samples))
    return ours, numpys


def measure(threads: int, quick: bool = False) -> Processes:
    """Both, in about 20 seconds; with `quick` in two."""
    ours, numpys = import_milliseconds(3 if quick else 15)
    shares = neighbours(threads, *((1, 0.1) if quick else (5, 1.0)))
    return Processes(shares, ours, numpys)
