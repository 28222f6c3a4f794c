"""Linear maps."""

from __future__ import annotations

from typing import Any

from .. import kernels
from ..autograd import recording
from ..creation import empty
from ..ops.product import linear, linear_packed
from ..tensor import Tensor
from .checks import positive
from .init import layer_default_
from .module import Module
from .packing import Packable, PackedWeight
from .parameter import Parameter

__all__ = ["Identity", "Linear"]


class Identity(Module):
    """The input itself; takes and ignores any arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class Linear(Packable):
    """input @ weight.T + bias: (..., in_features) to (..., out_features)."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features = positive("Linear", "in_features", in_features, least=0)
        self.out_features = positive("Linear", "out_features", out_features, least=0)
        self.weight = Parameter(empty(out_features, in_features, dtype=dtype))
        self.bias = Parameter(empty(out_features, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New initial values."""
        layer_default_(self.weight, self.bias)

    def _packed(self) -> PackedWeight:
        return PackedWeight(self.weight, lambda weight: kernels.gemm_pack(weight, trans_b=True))

    def forward(self, input: Tensor) -> Tensor:
        pack = self._pack
        if pack is not None and pack.stands_for(self.weight) and not recording(input, self.weight):
            return linear_packed(input, pack.pack, self.bias)
        return linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )
