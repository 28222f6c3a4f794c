"""The layers as functions, with PyTorch's names and defaults."""

from __future__ import annotations

from typing import Any

from ..ops import convolution as _convolution
from ..ops.activation import (
    elu,
    gelu,
    hardswish,
    leaky_relu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from ..ops.activation import relu as _relu
from ..ops.convolution import conv2d
from ..ops.dropout import dropout as _dropout
from ..ops.loss import cross_entropy, mse_loss
from ..ops.product import linear
from ..ops.reduction import log_softmax, softmax
from ..tensor import Tensor
from .checks import Pair

__all__ = [
    "avg_pool2d", "conv2d", "cross_entropy", "dropout", "elu", "gelu", "hardswish", "leaky_relu",
    "linear", "log_softmax", "max_pool2d", "mse_loss", "one_hot", "relu", "sigmoid", "silu",
    "softmax", "softplus", "tanh",
]  # fmt: skip


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0); `inplace` is taken for PyTorch's sake, the result is a new tensor anyway."""
    return _relu(input)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Sets elements to 0 with probability p and divides the others by 1 - p, while training."""
    return _dropout(input, p, training)


def max_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window; with return_indices also its flat index (int64) in the
    plane. Dilation and ceil_mode are not supported."""
    if dilation not in (1, (1, 1)):
        raise ValueError(f"max_pool2d: dilation must be 1, got {dilation}")
    if ceil_mode:
        raise ValueError("max_pool2d: ceil_mode must be False, got True; pad the input instead")
    return _convolution.max_pool2d(input, kernel_size, stride, padding, return_indices)


def avg_pool2d(
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window. ceil_mode is not supported."""
    if ceil_mode:
        raise ValueError("avg_pool2d: ceil_mode must be False, got True; pad the input instead")
    return _convolution.avg_pool2d(input, kernel_size, stride, padding, count_include_pad)


def one_hot(labels: Tensor, num_classes: int = -1) -> Tensor:
    """int64: 1 at the label's place along a new last dim, 0 elsewhere."""
    import numpy as np

    from ..autograd import wrap

    data = labels._data
    if data.dtype.kind not in "iu":
        raise TypeError(f"one_hot: integer labels are expected, got {data.dtype}")
    count = int(data.max(initial=-1)) + 1 if num_classes == -1 else num_classes
    if data.size and not (data.min() >= 0 and data.max() < count):
        raise ValueError(
            f"one_hot: labels must be in [0, {count - 1}], got [{data.min()}, {data.max()}]"
        )
    return wrap((data[..., None] == np.arange(count)).astype(np.int64))
