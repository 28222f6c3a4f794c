"""Normalization layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from .. import kernels
from .._core import ShapeError
from ..autograd import mark_written, wrap
from ..creation import empty, ones, zeros
from ..ops.norm import batch_norm, group_norm, instance_norm, layer_norm, rms_norm, row_shape
from ..ops.shape import squeeze, unsqueeze
from ..tensor import Tensor
from .checks import positive
from .init import ones_, zeros_
from .module import Module
from .parameter import Buffer, Parameter

__all__ = [
    "BatchNorm1d", "BatchNorm2d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "LayerNorm",
    "RMSNorm",
]  # fmt: skip


class _ChannelNorm(Module):
    """Weight and bias for each channel, and the running statistics."""

    _ranks: ClassVar[tuple[int, ...]]
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Buffer | None
    running_var: Buffer | None
    num_batches_tracked: Buffer | None

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        bias: bool,
        dtype: Any,
    ) -> None:
        super().__init__()
        self.num_features = positive(type(self).__name__, "num_features", num_features)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight = Parameter(empty(num_features, dtype=dtype)) if affine else None
        self.bias = Parameter(empty(num_features, dtype=dtype)) if affine and bias else None
        tracks = track_running_stats
        self.running_mean = Buffer(zeros(num_features, dtype=dtype)) if tracks else None
        self.running_var = Buffer(ones(num_features, dtype=dtype)) if tracks else None
        self.num_batches_tracked = Buffer(wrap(np.zeros((), np.int64))) if tracks else None
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches."""
        for tensor, value in (
            (self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0),
        ):  # fmt: skip
            if tensor is not None:
                tensor._data[...] = value
                mark_written(tensor)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and the running statistics anew."""
        self.reset_running_stats()
        if self.weight is not None:
            ones_(self.weight)
        if self.bias is not None:
            zeros_(self.bias)

    def _check(self, input: Tensor, channel_axis: int = 1) -> None:
        shape, layer = input.shape, type(self).__name__
        if len(shape) not in self._ranks:
            ranks = " or ".join(str(rank) for rank in self._ranks)
            raise ShapeError(f"{layer}: input of rank {ranks} is expected, got shape {shape}")
        if shape[channel_axis] != self.num_features:
            raise ShapeError(
                f"{layer}: input must have num_features={self.num_features} channels along axis "
                f"{channel_axis}, got shape {shape}"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


def _add_one(count: Any) -> None:
    if isinstance(count, np.ndarray):
        count += 1
    else:  # a GPU adds floats alone; exact up to 2^53, and nothing waits for it
        wide = count.astype(np.float64)
        count[...] = kernels.add(wide, np.ones_like(wide))


class _BatchNorm(_ChannelNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return self._normalized(input, batch_norm)

    def _normalized(self, input: Tensor, op: Callable[..., Tensor]) -> Tensor:
        """`op` is batch_norm, or batch_norm_relu where fusion.py has found a ReLU behind."""
        self._check(input)
        momentum = self.momentum or 0.0
        tracks = self.training and self.track_running_stats
        if tracks and self.num_batches_tracked is not None:
            count = self.num_batches_tracked
            _add_one(count._data)
            mark_written(count)
            if self.momentum is None:  # the mean over all batches
                momentum = 1.0 / count.item()
        from_batch = self.training or self.running_mean is None
        uses = tracks or not from_batch
        return op(
            input,
            self.running_mean if uses else None,
            self.running_var if uses else None,
            self.weight, self.bias, from_batch, momentum, self.eps,
        )  # fmt: skip


class BatchNorm1d(_BatchNorm):
    """Normalizes each channel of (n, c) or (n, c, length) over the batch; eval mode takes the
    running statistics. momentum None: they are the mean over all batches."""

    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalizes each channel of (n, c, h, w) over the batch; eval mode takes the running
    statistics. momentum None: they are the mean over all batches."""

    _ranks = (4,)


class _InstanceNorm(_ChannelNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias, dtype)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim == min(self._ranks):  # a single sample
            self._check(input, 0)
            return squeeze(self._normalized(unsqueeze(input, 0)), 0)
        self._check(input)
        return self._normalized(input)

    def _normalized(self, input: Tensor) -> Tensor:
        own = self.training or not self.track_running_stats
        return instance_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, own,
            self.momentum or 0.0, self.eps,
        )  # fmt: skip


class InstanceNorm1d(_InstanceNorm):
    """Normalizes each channel of each sample of (n, c, length), or of one sample (c, length)."""

    _ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Normalizes each channel of each sample of (n, c, h, w), or of one sample (c, h, w)."""

    _ranks = (3, 4)


class GroupNorm(Module):
    """Normalizes num_groups groups of neighbouring channels of each sample of (n, c, ...)."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_groups = positive("GroupNorm", "num_groups", num_groups)
        self.num_channels = positive("GroupNorm", "num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels must be a multiple of num_groups={num_groups}, got "
                f"{num_channels}"
            )
        self.eps = eps
        self.affine = affine
        self.weight = Parameter(empty(num_channels, dtype=dtype)) if affine else None
        self.bias = Parameter(empty(num_channels, dtype=dtype)) if affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        if self.weight is not None:
            ones_(self.weight)
        if self.bias is not None:
            zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim < 2 or input.shape[1] != self.num_channels:
            raise ShapeError(
                f"GroupNorm: input (n, {self.num_channels}, ...) is expected, got {input.shape}"
            )
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LayerNorm(Module):
    """Normalizes over the last axes, those of normalized_shape."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = row_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        shape, affine = self.normalized_shape, elementwise_affine
        self.weight = Parameter(empty(*shape, dtype=dtype)) if affine else None
        self.bias = Parameter(empty(*shape, dtype=dtype)) if affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        if self.weight is not None:
            ones_(self.weight)
        if self.bias is not None:
            zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, "
            f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """Divides by the root of the mean square over the last axes, those of normalized_shape."""

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = row_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.weight = Parameter(empty(*shape, dtype=dtype)) if elementwise_affine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1."""
        if self.weight is not None:
            ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )
