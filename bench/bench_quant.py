"""The quant cases of hotloop.benchmarks, ours beside NumPy's: `python -m pytest bench`."""

from collections.abc import Callable


def test_quant(timed: Callable[[], None]) -> None:
    timed()
