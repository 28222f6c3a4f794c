"""hotloop: deep-learning kernels on NumPy arrays, and a thin layer that trains networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    from hotloop import _core
except ImportError as error:
    raise ImportError(
        "hotloop: the compiled module hotloop._core is missing or does not fit this Python; "
        "build it with `pip install .` in the root of the source tree "
        f"({type(error).__name__}: {error})"
    ) from error

from hotloop import kernels
from hotloop._core import DeviceError, DTypeError, OutputError, ShapeError
from hotloop.autograd import *
from hotloop.config import get_num_threads, seed, set_num_threads, show_config
from hotloop.creation import *
from hotloop.device import *
from hotloop.ops import *
from hotloop.random import *
from hotloop.tensor import Tensor

if TYPE_CHECKING:
    from hotloop import kernels as kernels
    from hotloop import nn as nn

__version__: str = _core.__version__

__all__ = [
    "DTypeError",
    "DeviceError",
    "OutputError",
    "ShapeError",
    "Tensor",
    "get_num_threads",
    "kernels",
    "seed",
    "set_num_threads",
    "show_config",
]

# Rooms that load at first use, so that importing the package stays cheap (SPEC 1).
_LAZY: dict[str, str] = {"nn": "hotloop.nn"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module = importlib.import_module(_LAZY[name])
        return module if _LAZY[name].endswith(f".{name}") else getattr(module, name)
    raise AttributeError(f"module 'hotloop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
