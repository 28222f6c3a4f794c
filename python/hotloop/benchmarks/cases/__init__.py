"""The table of cases: every module of this package holds the rows of one family, in `CASES`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

from ..case import Case


def families() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name[0] != "_")


def cases(names: Sequence[str] = ()) -> list[Case]:
    """The cases of these families (without names of all but those that are BY_NAME_ONLY).

    An unknown name raises ValueError.
    """
    known = families()
    for name in names:
        if name not in known:
            raise ValueError(f"bench: unknown family {name!r}; one of {', '.join(known)}")
    table: list[Case] = []
    for name in names or known:
        module = importlib.import_module(f"{__name__}.{name}")
        if names or not getattr(module, "BY_NAME_ONLY", False):
            table += module.CASES
    return table
