"""The random cases of hotloop.benchmarks, ours beside NumPy's: `python -m pytest bench`."""

from collections.abc import Callable


def test_random(timed: Callable[[], None]) -> None:
    timed()
