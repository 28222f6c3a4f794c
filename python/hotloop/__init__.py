"""hotloop: deep-learning kernels on NumPy arrays, and a thin layer that trains networks."""

from __future__ import annotations

import importlib
from types import ModuleType
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
    from hotloop import checkpoint as checkpoint
    from hotloop import cuda as cuda
    from hotloop import data as data
    from hotloop import kernels as kernels
    from hotloop import metrics as metrics
    from hotloop import nn as nn
    from hotloop import optim as optim
    from hotloop import train as train
    from hotloop import utils as utils
    from hotloop.checkpoint import load as load
    from hotloop.checkpoint import save as save

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

# Rooms that load at first use, so that importing the package stays cheap.
_ROOMS = ("checkpoint", "cuda", "data", "metrics", "nn", "optim", "train", "utils")
_LAZY: dict[str, str] = {name: f"hotloop.{name}" for name in _ROOMS}
_LAZY |= {"load": "hotloop.checkpoint", "save": "hotloop.checkpoint"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module = importlib.import_module(_LAZY[name])
        return module if _LAZY[name].endswith(f".{name}") else getattr(module, name)
    raise AttributeError(f"module 'hotloop' has no attribute {name!r}")


def __dir__() -> list[str]:
    names = {name for name, value in globals().items() if not isinstance(value, ModuleType)}
    public = names - {"Any", "ModuleType", "TYPE_CHECKING", "annotations"}
    return sorted({*public, *_LAZY, "kernels", "random"})
