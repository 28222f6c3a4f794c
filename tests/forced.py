"""The levels that a test runs at, forced one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

LEVELS = ("generic", "avx2", "avx512")
DOT_LEVELS = (*LEVELS, "avx512bf16")  # of the families that are compiled for it


def level_fixture(names: Sequence[str]) -> Any:
    """A fixture that runs the test at each of these levels that this CPU has."""

    @pytest.fixture(params=names)
    def level(request: pytest.FixtureRequest) -> Iterator[str]:
        from hotloop.kernels import force_isa

        try:
            forced = force_isa(request.param)
            forced.__enter__()
        except ValueError as error:
            pytest.skip(str(error))
        try:
            yield request.param
        finally:
            forced.__exit__(None, None, None)

    return level
