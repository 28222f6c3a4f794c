"""The layers as functions, with PyTorch's names and defaults."""

from __future__ import annotations

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
from ..ops.convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from ..ops.dropout import dropout as _dropout
from ..ops.embedding import embedding
from ..ops.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    hinge_embedding_loss,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from ..ops.norm import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from ..ops.pooling import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d
from ..ops.product import linear
from ..ops.reduction import log_softmax, softmax
from ..tensor import Tensor

__all__ = [
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "batch_norm",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "conv1d", "conv2d", "conv3d",
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "cross_entropy", "dropout", "elu",
    "embedding", "gelu", "group_norm", "hardswish", "hinge_embedding_loss", "huber_loss",
    "instance_norm", "kl_div", "l1_loss", "layer_norm", "leaky_relu", "linear", "log_softmax",
    "max_pool2d", "mse_loss", "nll_loss", "one_hot", "relu", "rms_norm", "sigmoid", "silu",
    "smooth_l1_loss", "softmax", "softplus", "tanh",
]  # fmt: skip


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0); `inplace` is taken for PyTorch's sake, the result is a new tensor anyway."""
    return _relu(input)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Sets elements to 0 with probability p and divides the others by 1 - p, while training."""
    return _dropout(input, p, training)


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
