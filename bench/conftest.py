"""Gives every bench_<family>.py its rows: the cases of the family, by hotloop and by NumPy.

For a quick look at one kernel while it is written. The table that counts, with every rival in a
process of its own, is `python -m hotloop bench`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hotloop.benchmarks import Case, cases

CONTENDERS = ("hotloop", "numpy")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    family = metafunc.module.__name__.rpartition(".")[2].removeprefix("bench_")
    rows = [(case, who) for case in cases([family]) for who in CONTENDERS if case.builds(who)]
    metafunc.parametrize(
        ("case", "contender"), rows, ids=[f"{case.name} {who}" for case, who in rows]
    )


@pytest.fixture
def timed(benchmark: Callable, case: Case, contender: str) -> Callable[[], None]:
    """Times the row's call under pytest-benchmark, grouped with its rivals."""
    (build, *_) = case.builds(contender).values()
    call = build(case.inputs(np.random.default_rng(20)))
    benchmark.group = case.key

    def run() -> None:
        benchmark(call)

    return run
