"""Layers that one kernel computes together when they follow each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ops.convolution import conv2d_relu_max_pool2d
from ..ops.norm import batch_norm_relu
from ..tensor import Tensor
from .activation import ReLU
from .convolution import Conv2d
from .module import Module
from .norm import BatchNorm1d, BatchNorm2d
from .pooling import MaxPool2d

__all__ = ["conv_relu_pool", "norm_relu"]

_CALL = Module.__call__
_CHAIN = ((Conv2d, Conv2d.forward), (ReLU, ReLU.forward), (MaxPool2d, MaxPool2d.forward))
_RELU = ReLU.forward
_NORMS: dict[type[Module], object] = {kind: kind.forward for kind in (BatchNorm1d, BatchNorm2d)}


def conv_relu_pool(layers: Sequence[Module], at: int, input: Tensor) -> Tensor | None:
    """What the layers at `at` and the two behind give, where they are Conv2d, ReLU, MaxPool2d(2).

    None where they are not, where somebody has put a method of his own in between, or where the
    layers one by one would raise (their errors name the layer).
    """
    chain = layers[at : at + 3]
    if len(chain) < 3 or Module.__call__ is not _CALL:
        return None
    for layer, (kind, forward) in zip(chain, _CHAIN):
        if type(layer) is not kind or kind.forward is not forward or "forward" in layer.__dict__:
            return None
    conv, pool = chain[0], chain[2]
    if not _pools_two_by_two(pool) or not _fits(conv, input):  # type: ignore[arg-type]
        return None
    pack = conv._usable_pack(input)  # type: ignore[attr-defined]
    return conv2d_relu_max_pool2d(input, conv.weight, conv.bias, conv._options(), pack)  # type: ignore[attr-defined]


def norm_relu(layers: Sequence[Module], at: int, input: Tensor) -> Tensor | None:
    """What the layers at `at` and `at + 1` give, where they are BatchNorm1d or 2d and ReLU.

    None where they are not, where somebody has put a method of his own in between, or where the
    norm might raise (its error names the layer).
    """
    chain = layers[at : at + 2]
    if len(chain) < 2 or Module.__call__ is not _CALL:
        return None
    norm, relu = chain
    kind = type(norm)
    if _NORMS.get(kind) is not kind.forward or "forward" in norm.__dict__:
        return None
    if type(relu) is not ReLU or ReLU.forward is not _RELU or "forward" in relu.__dict__:
        return None
    if not isinstance(input, Tensor) or not isinstance(input._data, np.ndarray):  # on a GPU
        return None
    x = input._data
    fits = x.ndim in norm._ranks and x.shape[1] == norm.num_features  # type: ignore[attr-defined]
    parts = (*norm.parameters(), *norm.buffers())
    same = all(t._data.dtype == x.dtype for t in parts if t._data.ndim > 0)
    if not fits or not same or x.dtype.kind != "f" or x.size <= x.shape[1]:
        return None
    return norm._normalized(input, batch_norm_relu)  # type: ignore[attr-defined]


def _pools_two_by_two(pool: MaxPool2d) -> bool:
    return (
        pool.kernel_size in (2, (2, 2))
        and pool.stride in (2, (2, 2))
        and pool.padding in (0, (0, 0))
        and pool.dilation in (1, (1, 1))
        and not pool.ceil_mode
        and not pool.return_indices
    )


def _fits(conv: Conv2d, input: Tensor) -> bool:
    """Whether the layers would take this input, and one kernel is the faster way."""
    if not isinstance(input, Tensor) or conv.groups != 1 or conv.kernel_size == (1, 1):
        return False
    x, w = input._data, conv.weight._data
    if not (isinstance(x, np.ndarray) and isinstance(w, np.ndarray)):  # on a GPU
        return False
    if x.ndim != 4 or w.ndim != 4 or x.dtype != w.dtype or x.shape[1] != w.shape[1]:
        return False
    if conv.bias is not None and conv.bias._data.dtype != x.dtype:
        return False
    return (
        x.dtype.kind == "f"
        and all(
            size > 0 and size + 2 * padding - dilation * (taps - 1) - 1 >= stride
            for size, taps, padding, dilation, stride in zip(
                x.shape[2:], w.shape[2:], conv.padding, conv.dilation, conv.stride
            )
        )
        and x.shape[0] > 0
    )
