"""The processes of the contenders: one is awake, the others are stopped."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .case import CONTENDERS, OURS, Case

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")


class BenchError(RuntimeError):
    """A contender failed, or its result differs from ours."""


def available(contender: str) -> bool:
    """Whether its library can be found; says nothing on whether it can be imported."""
    if contender in (*OURS, "numpy"):
        return True
    if contender == "numpy-skylakex":
        import hotloop as hl

        return "avx512" in hl.show_config().cpu_features
    needed = ("onnxruntime", "onnx") if contender == "onnxruntime" else (contender,)
    return all(importlib.util.find_spec(name) is not None for name in needed)


class Rival:
    """A worker process, stopped unless somebody talks to it."""

    def __init__(self, contender: str, threads: int) -> None:
        self.contender = contender
        environment = dict(os.environ)
        environment.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
        environment["XLA_FLAGS"] = (
            f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        )
        environment["JAX_PLATFORMS"] = "cpu"
        if contender == "numpy-skylakex":
            environment["OPENBLAS_CORETYPE"] = "SKYLAKEX"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hotloop.benchmarks.worker", contender, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        hello = self._read()
        self.absent: str = hello.get("absent", "")
        self.version: str = hello.get("version", "")
        if not self.absent:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise BenchError(f"bench: the process of {self.contender} ended with status {code}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _send(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _receive(self) -> Any:
        try:
            answer = self._read()
        finally:
            self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise BenchError(f"bench: {self.contender}: {answer['error']}")
        return answer["result"]

    def _ask(self, **command: Any) -> Any:
        self._send(**command)
        return self._receive()

    def load(self, case: Case, result: str, ceiling: bool = False) -> None:
        """Builds the case and runs it once; the result goes to the file `result`.

        With `ceiling` it times the ceiling too, over the same arrays.
        """
        self._ask(do="load", family=case.family, key=case.key, result=result, ceiling=ceiling)

    def time(self, seconds: float) -> dict[str, float]:
        """Median seconds of a call, per variant, and the ceiling's where it was asked for."""
        times: dict[str, float] = self._ask(do="time", seconds=seconds)
        return times

    def begin(self, seconds: float) -> None:
        """Starts what `time` does without waiting for it: other processes may run meanwhile."""
        self._send(do="time", seconds=seconds)

    def end(self) -> dict[str, float]:
        """Waits for what `begin` started, and gives what `time` gives."""
        times: dict[str, float] = self._receive()
        return times

    def close(self) -> None:
        """Ends the process, stopped or not."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def rivals(names: list[str], threads: int) -> Iterator[dict[str, Rival]]:
    """The processes of those contenders that are installed, ended at the end."""
    started: dict[str, Rival] = {}
    try:
        for name in CONTENDERS:
            if name in names and available(name):
                started[name] = Rival(name, threads)
        yield {name: rival for name, rival in started.items() if not rival.absent}
    finally:
        for rival in started.values():
            rival.close()
