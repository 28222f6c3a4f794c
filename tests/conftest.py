"""Fixtures that every family uses: the level in force, the threads, dtypes, random data."""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from forced import LEVELS, level_fixture

THREADS = (1, 2, 3, 8)

# The same data in every run, so that a result can be repeated; HOTLOOP_TEST_SEED=random looks
# further, and the seed it took is in the header and in every failure.
_ASKED = os.environ.get("HOTLOOP_TEST_SEED", "20")
SEED = secrets.randbits(32) if _ASKED == "random" else int(_ASKED)
REPEAT = f"random data: HOTLOOP_TEST_SEED={SEED} repeats this run's arrays"


def pytest_report_header() -> str:
    return REPEAT


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and "rng" in getattr(item, "fixturenames", ()):
        report.sections.append(("hotloop", REPEAT))
    return report


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this test: they depend on the run's seed and the test's name alone."""
    name = request.node.nodeid.rpartition("/")[2]
    return np.random.default_rng([SEED, zlib.crc32(name.encode())])


level = level_fixture(LEVELS)


@pytest.fixture(autouse=True)
def long_doubles_survive() -> Iterator[None]:
    """No kernel leaves MMX registers in use: the next long double would be NaN."""
    yield
    one = np.longdouble(1)
    assert [one + i for i in range(9)] == [one * i for i in range(1, 10)]


@pytest.fixture(scope="module")
def cuda() -> Iterator[None]:
    """Device "cuda", emulated or real: for modules with `pytest.mark.usefixtures("cuda")`."""
    import cuda_library

    with cuda_library.cuda_devices():
        yield


@pytest.fixture(params=THREADS)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs the test with each number of threads. assert_same_bits is cheaper for one call."""
    import hotloop as hl

    before = hl.get_num_threads()
    hl.set_num_threads(request.param)
    try:
        yield request.param
    finally:
        hl.set_num_threads(before)


@pytest.fixture(params=[np.float32, np.float64], ids=["f32", "f64"])
def dtype(request: pytest.FixtureRequest) -> type[np.floating]:
    return request.param
