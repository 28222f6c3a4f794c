"""The dropout cases of hotloop.benchmarks, ours beside NumPy's: `python -m pytest bench`."""

from collections.abc import Callable


def test_dropout(timed: Callable[[], None]) -> None:
    timed()
