"""Convolution layers over signals, images and volumes, and their transposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from .. import kernels
from ..autograd import recording
from ..creation import empty
from ..ops import convolution as ops
from ..ops.convolution import same_padding
from ..tensor import Tensor
from .checks import positive
from .init import layer_default_
from .module import Module
from .packing import Packable, PackedWeight
from .parameter import Parameter

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
]

Size = int | Sequence[int]


class _Convolution(Module):
    """What all of them hold: sizes, weight and bias."""

    _dims: ClassVar[int]
    _defaults: ClassVar[tuple[tuple[str, int], ...]] = (
        ("padding", 0),
        ("dilation", 1),
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size | str,
        dilation: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        transposed: bool,
        dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.in_channels = positive(name, "in_channels", in_channels)
        self.out_channels = positive(name, "out_channels", out_channels)
        self.kernel_size = self._sizes("kernel_size", kernel_size)
        self.stride = self._sizes("stride", stride)
        self.dilation = self._sizes("dilation", dilation)
        self.groups = positive(name, "groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: in_channels and out_channels must be multiples of groups={groups}, got "
                f"{in_channels} and {out_channels}"
            )
        if padding_mode != "zeros":
            raise ValueError(f'{name}: padding_mode must be "zeros", got {padding_mode!r}')
        if not isinstance(padding, str):
            self.padding = self._sizes("padding", padding, least=0)
        elif transposed or padding not in ("same", "valid"):
            wanted = "numbers" if transposed else '"same", "valid" or numbers'
            raise ValueError(f"{name}: padding must be {wanted}, got {padding!r}")
        else:
            same = padding == "same"
            idle = (0,) * self._dims
            self.padding = (
                same_padding(self.kernel_size, self.stride, self.dilation) if same else idle
            )
        first, second = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight = Parameter(empty(first, second // groups, *self.kernel_size, dtype=dtype))
        self.bias = Parameter(empty(out_channels, dtype=dtype)) if bias else None
        self.reset_parameters()

    def _sizes(self, name: str, value: Size, least: int = 1) -> tuple[int, ...]:
        """An int for all axes, or one for each."""
        layer = type(self).__name__
        if not isinstance(value, (tuple, list)):
            return (positive(layer, name, value, least),) * self._dims  # type: ignore[arg-type]
        if len(value) != self._dims:
            wanted = {1: "an int", 2: "an int or a pair", 3: "an int or three of them"}
            raise ValueError(f"{layer}: {name} must be {wanted[self._dims]}, got {value}")
        return tuple(positive(layer, name, part, least) for part in value)

    def reset_parameters(self) -> None:
        """New initial values."""
        layer_default_(self.weight, self.bias)

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}"
        )
        for name, least in self._defaults:
            if getattr(self, name) != (least,) * self._dims:
                text += f", {name}={getattr(self, name)}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else text + ", bias=False"


class _Forward(_Convolution, Packable):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, False, dtype,
        )  # fmt: skip

    def _settings(self) -> tuple[Any, ...]:
        return (
            self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
        )  # fmt: skip

    def _options(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def _packed(self) -> PackedWeight | None:
        if set(self.kernel_size) == {1}:  # a plain product, which packs for itself
            return None
        return PackedWeight(self.weight, lambda w: kernels.conv_pack(w, groups=self.groups))

    def _usable_pack(self, input: Tensor) -> Any:
        """The packed weight, where it stands for the weight and nothing is recorded."""
        pack = self._pack
        if pack is None or not pack.stands_for(self.weight) or recording(input, self.weight):
            return None
        return pack.pack

    def _convolve(self, input: Tensor, function: Callable[..., Tensor]) -> Tensor:
        known = self._pack is not None and isinstance(input, Tensor)
        pack = self._usable_pack(input) if known else None
        if pack is None or input.ndim != self._dims + 2:
            return function(input, *self._settings())
        return ops.convolve_packed(input, pack, self.bias, self._dims, self._options())


class Conv1d(_Forward):
    """The convolution of (n, c, l), or (c, l), with learned kernels, zeros around the signal.

    weight: (out_channels, in_channels / groups, k).
    """

    _dims = 1

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(input, ops.conv1d)


class Conv2d(_Forward):
    """The convolution of (n, c, h, w), or (c, h, w), with learned kernels, zeros around the image.

    weight: (out_channels, in_channels / groups, kh, kw).
    """

    _dims = 2

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(input, ops.conv2d)


class Conv3d(_Forward):
    """The convolution of (n, c, d, h, w), or without n, with learned kernels, zeros around.

    weight: (out_channels, in_channels / groups, kd, kh, kw).
    """

    _dims = 3

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(input, ops.conv3d)


class _Transposed(_Convolution):
    _defaults = (("padding", 0), ("dilation", 1), ("output_padding", 0))

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, True, dtype,
        )  # fmt: skip
        self.output_padding = self._sizes("output_padding", output_padding, least=0)

    def _settings(self, input: Tensor, output_size: Sequence[int] | None) -> tuple[Any, ...]:
        extra = self.output_padding
        if output_size is not None:
            extra = self._extra(input, tuple(output_size)[-self._dims :])
        return (
            self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation,
        )  # fmt: skip

    def _extra(self, input: Tensor, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """The output_padding that gives the wanted sizes."""
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                input.shape[-self._dims :],
                self.stride,
                self.padding,
                self.dilation,
                self.kernel_size,
            )
        ]
        extra = tuple(w - n for w, n in zip(wanted, least))
        if len(wanted) != self._dims or any(e < 0 or e >= s for e, s in zip(extra, self.stride)):
            most = [n + s - 1 for n, s in zip(least, self.stride)]
            raise ValueError(
                f"{type(self).__name__}: output_size must be from {least} to {most}, got {wanted}"
            )
        return extra


class ConvTranspose1d(_Transposed):
    """The transposed convolution of (n, c, l): a convolution's gradient as a layer of its own.

    weight: (in_channels, out_channels / groups, k).
    """

    _dims = 1

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return ops.conv_transpose1d(input, *self._settings(input, output_size))


class ConvTranspose2d(_Transposed):
    """The transposed convolution of (n, c, h, w): a convolution's gradient as a layer of its own.

    weight: (in_channels, out_channels / groups, kh, kw). Sizes grow by the stride; output_padding
    (or output_size, in the call) chooses among the sizes that the convolution turns into x's.
    """

    _dims = 2

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return ops.conv_transpose2d(input, *self._settings(input, output_size))


class ConvTranspose3d(_Transposed):
    """The transposed convolution of (n, c, d, h, w): see ConvTranspose2d.

    weight: (in_channels, out_channels / groups, kd, kh, kw).
    """

    _dims = 3

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return ops.conv_transpose3d(input, *self._settings(input, output_size))
