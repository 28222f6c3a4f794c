"""What concerns whole processes: two on the same cores, what the import costs and what a call."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np

import hotloop as hl
from hotloop import _core

from .case import Case
from .cases import cases
from .rivals import BenchError, Rival

_SHARED = "512x512x512 f32"  # the product that both processes of the pair multiply


@dataclass
class Processes:
    """Shares of the speed alone for each of the pair; milliseconds of imports; a call's cost."""

    shares: tuple[float, float]
    import_hotloop: float
    import_numpy: float
    call: float  # nanoseconds

    def lines(self) -> list[str]:
        """What a reader wants to know, each with what was promised."""
        first, second = (100 * share for share in self.shares)
        return [
            f"two processes on the same cores, each multiplying {_SHARED}: "
            f"{first:.0f} % and {second:.0f} % of their speed alone (promised: 40 %)",
            f"import: {self.import_hotloop:.1f} ms on top of NumPy's {self.import_numpy:.1f} ms "
            "(promised: 25 ms)",
            f"call: 16x16x16 f32 with out= takes {self.call:.0f} ns more than a binding that does "
            "nothing (promised: 300 ns)",
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


def call_nanoseconds(rounds: int = 200, loops: int = 2000) -> float:
    """What a small product costs from Python, less a call that only returns an integer.

    Both are called in plain loops, in turn; the medians of the rounds are subtracted.
    """
    a, b, out = (np.ones((16, 16), np.float32) for _ in range(3))
    gemm, empty = hl.kernels.gemm, _core.num_threads
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        start = perf_counter_ns()
        for _ in range(loops):
            gemm(a, b, out=out)
        middle = perf_counter_ns()
        for _ in range(loops):
            empty()
        samples[0].append((middle - start) / loops)
        samples[1].append((perf_counter_ns() - middle) / loops)
    return statistics.median(samples[0]) - statistics.median(samples[1])


def measure(threads: int, quick: bool = False) -> Processes:
    """All of it, in about 20 seconds; with `quick` in two."""
    ours, numpys = import_milliseconds(3 if quick else 15)
    shares = neighbours(threads, *((1, 0.1) if quick else (5, 1.0)))
    return Processes(shares, ours, numpys, call_nanoseconds(20 if quick else 200))
