"""Kernels as plain functions: NumPy arrays in, NumPy arrays out, every one takes ``out=``.

The functions live in one module per family; this package gathers what each of them exports.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from hotloop.config import force_isa

__all__: list[str] = ["force_isa"]

for _module in pkgutil.iter_modules(__path__):
    _family = importlib.import_module(f"{__name__}.{_module.name}")
    for _name in _family.__all__:
        globals()[_name] = getattr(_family, _name)
    __all__ += _family.__all__
__all__.sort()

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
