"""The machine's limits as contenders: loops that only compute, or only move memory."""

from __future__ import annotations

from .case import Call, Case


def probe(case: Case) -> Call:
    """A call that does the case's work at the limit: as many operations, or as many bytes."""
    raise NotImplementedError(case.ceiling)
