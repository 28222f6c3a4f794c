"""The activation cases of hotloop.benchmarks, ours beside NumPy's: `python -m pytest bench`."""

from collections.abc import Callable


def test_activation(timed: Callable[[], None]) -> None:
    timed()
