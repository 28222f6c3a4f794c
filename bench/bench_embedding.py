"""The embedding cases of hotloop.benchmarks, ours beside NumPy's: `python -m pytest bench`."""

from collections.abc import Callable


def test_embedding(timed: Callable[[], None]) -> None:
    timed()
