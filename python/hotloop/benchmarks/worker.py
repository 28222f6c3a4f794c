"""One contender in a process of its own: `python -m hotloop.benchmarks.worker NAME`.

Libraries keep their threads spinning after a call, so two of them in one process spoil each other's
figures; here the parent stops this process while another one is timed. Commands come as lines of
JSON on stdin, answers go as lines of JSON to what was stdout at the start.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.metadata
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import hotloop as hl

from .case import CEILING, OURS, Call, Case
from .cases import cases
from .cases._rivals import as_array
from .placement import placed

SEED = 20


def _seconds(call: Call, loops: int) -> float:
    start = time.perf_counter()
    for _ in range(loops):
        call()
    return time.perf_counter() - start


def _empty() -> None:
    return None


def calibrate(call: Call, seconds: float) -> int:
    """How often to call so that one sample takes about a tenth of `seconds`."""
    loops = 1
    while (taken := _seconds(call, loops)) < seconds / 10 and loops < 1 << 24:
        loops = max(loops * 2, int(loops * seconds / 10 / max(taken, 1e-7) * 0.8))
    return loops


def measure(calls: Sequence[tuple[Call, int]], seconds: float) -> list[float]:
    """Median seconds of one call each, the cost of calling an empty function taken off.

    With each call goes how often it is called for one sample; the samples of several calls
    alternate.
    """
    # Caches are cold and the clock is low after the stop: a warm-up first.
    warm = time.perf_counter() + seconds / 4
    for call, _ in calls:
        call()
    while time.perf_counter() < warm:
        for call, loops in calls:
            _seconds(call, loops)
    samples: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds * len(calls)
    while len(samples[0]) < 3 or (time.perf_counter() < end and len(samples[0]) < 1000):
        for (call, loops), taken in zip(calls, samples):
            taken.append(_seconds(call, loops) / loops)
    overhead = _seconds(_empty, 2000) / 2000 if samples[0][0] < 1e-4 else 0.0
    return [max(statistics.median(taken) - overhead, 1e-9) for taken in samples]


class Worker:
    """The contender's side of the conversation."""

    def __init__(self, contender: str, threads: int) -> None:
        self.contender = contender
        self.threads = threads
        self.calls: dict[str, Call] = {}
        self.loops: dict[str, int] = {}
        self.ceiling: tuple[Call, float] | None = None  # over the case's own arrays
        self.version = self._prepare_library(threads)

    def _prepare_library(self, threads: int) -> str:
        if self.contender in OURS:
            hl.set_num_threads(threads)
            return str(hl.__version__)
        name = "numpy" if self.contender == "numpy-skylakex" else self.contender
        if name == "onnxruntime":
            importlib.import_module("onnx")  # its models are written with it
        library = importlib.import_module(name)
        if name == "torch":
            library.set_num_threads(threads)
        return importlib.metadata.version(name)

    def load(self, case: Case, result: str, ceiling: bool = False) -> list[str]:
        """Builds the case's variants, runs each once, and writes the first result to a file.

        With `ceiling` the probe over the arrays of the first variant is timed as well.
        """
        self.calls, self.loops, self.ceiling = {}, {}, None
        gc.collect()
        for variant, build in case.builds(self.contender).items():
            arrays = placed(case.inputs(np.random.default_rng(SEED)))
            call = build(arrays)
            results = as_array(call())
            self.calls[variant] = call
            if len(self.calls) == 1:
                if result and case.compare:
                    np.savez(result, *results)
                if ceiling:
                    from .ceilings import beside

                    self.ceiling = beside(case, arrays)
        return list(self.calls)

    def load_ceiling(self, case: Case) -> list[str]:
        """The probe that bounds the case, over the same number of bytes."""
        from .ceilings import probe

        self.calls, self.loops, self.ceiling = {"": probe(case)}, {}, None
        return [""]

    def time(self, seconds: float) -> dict[str, float]:
        """Median seconds of each variant, in this round."""
        times: dict[str, float] = {}
        for variant, call in self.calls.items():
            if variant not in self.loops:
                self.loops[variant] = calibrate(call, seconds)
            pairs = [(call, self.loops[variant])]
            if self.ceiling is None or times:
                (times[variant],) = measure(pairs, seconds)
            else:
                probe, share = self.ceiling
                if CEILING not in self.loops:
                    self.loops[CEILING] = calibrate(probe, seconds)
                ours, taken = measure([*pairs, (probe, self.loops[CEILING])], seconds)
                times |= {variant: ours, CEILING: taken * share}
        return times

    def answer(self, command: dict[str, Any]) -> Any:
        if command["do"] == "load":
            (case,) = (case for case in cases([command["family"]]) if case.key == command["key"])
            if self.contender in OURS:
                hl.set_num_threads(case.threads or self.threads)
            if self.contender == CEILING:
                return self.load_ceiling(case)
            return self.load(case, command["result"], command["ceiling"])
        return self.time(command["seconds"])


def main() -> None:
    """Answers commands until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with contextlib.suppress(OSError, AttributeError):  # a stopped process outlives nobody
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    contender, threads = sys.argv[1], int(sys.argv[2])
    try:
        worker = Worker(contender, threads)
    except ImportError as error:
        channel.write(json.dumps({"absent": str(error)}) + "\n")
        return
    channel.write(json.dumps({"version": worker.version}) + "\n")
    for line in sys.stdin:
        try:
            channel.write(json.dumps({"result": worker.answer(json.loads(line))}) + "\n")
        except Exception as error:
            channel.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")


if __name__ == "__main__":
    main()
