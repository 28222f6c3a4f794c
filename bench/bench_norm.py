"""The norm cases of hotloop.benchmarks, ours beside NumPy's: `python -m pytest bench`."""

from collections.abc import Callable


def test_norm(timed: Callable[[], None]) -> None:
    timed()
