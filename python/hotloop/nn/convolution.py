"""Convolution layers."""

from __future__ import annotations

from typing import Any

from ..creation import empty
from ..ops.convolution import conv2d, same_padding
from ..tensor import Tensor
from .checks import Pair, pair, positive
from .init import layer_default_
from .module import Module
from .parameter import Parameter

__all__ = ["Conv2d"]


class Conv2d(Module):
    """The convolution of (n, c, h, w), or (c, h, w), with learned kernels, zeros around the image.

    weight: (out_channels, in_channels / groups, kh, kw).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_channels = positive("Conv2d", "in_channels", in_channels)
        self.out_channels = positive("Conv2d", "out_channels", out_channels)
        self.kernel_size = pair("Conv2d", "kernel_size", kernel_size)
        self.stride = pair("Conv2d", "stride", stride)
        self.dilation = pair("Conv2d", "dilation", dilation)
        self.groups = positive("Conv2d", "groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: in_channels and out_channels must be multiples of groups={groups}, got "
                f"{in_channels} and {out_channels}"
            )
        if padding_mode != "zeros":
            raise ValueError(f'Conv2d: padding_mode must be "zeros", got {padding_mode!r}')
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(
                    f'Conv2d: padding must be "same", "valid" or numbers, got {padding!r}'
                )
            same = padding == "same"
            self.padding = (
                same_padding(self.kernel_size, self.stride, self.dilation) if same else (0, 0)
            )
        else:
            self.padding = pair("Conv2d", "padding", padding, least=0)
        self.weight = Parameter(
            empty(out_channels, in_channels // groups, *self.kernel_size, dtype=dtype)
        )
        self.bias = Parameter(empty(out_channels, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New initial values."""
        layer_default_(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return conv2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else text + ", bias=False"
