"""Linear maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import kernels
from ..autograd import recording
from ..creation import empty
from ..ops.product import linear, linear_packed
from ..tensor import Tensor
from .checks import positive
from .init import layer_default_
from .module import Module
from .parameter import Parameter

__all__ = ["Identity", "Linear"]


class Identity(Module):
    """The input itself; takes and ignores any arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class _PackedWeight:
    """A weight in the order in which products read it, and what it was made of."""

    def __init__(self, weight: Parameter) -> None:
        self.data, self.version = weight._data, weight._version[0]
        self.pack = kernels.gemm_pack(weight._data, trans_b=True)

    def stands_for(self, weight: Parameter) -> bool:
        """False once the weight was replaced or written."""
        return weight._data is self.data and weight._version[0] == self.version

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # copies of a layer, and pickles, have none


@contextmanager
def packed_weights(model: Module) -> Iterator[None]:
    """Inside, the linear layers of a model multiply by packed copies of their weights.

    For many forward passes without a change of weights. A layer whose weight is changed meanwhile
    goes back to it; at the end all copies are dropped.
    """
    linear = (module for module in model.modules() if isinstance(module, Linear))
    # Frozen ones keep theirs; on a GPU nothing is packed.
    layers = [layer for layer in linear if not (layer._is_packed() or layer.weight.is_cuda)]
    try:
        for layer in layers:
            layer._keep_copies()
        yield
    finally:
        for layer in layers:
            layer._drop_copies()


class Linear(Module):
    """input @ weight.T + bias: (..., in_features) to (..., out_features)."""

    _pack: _PackedWeight | None = None  # where it is frozen, and inside packed_weights

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

    def _keep_copies(self) -> None:
        self._pack = _PackedWeight(self.weight)

    def _drop_copies(self) -> None:
        self._pack = None

    def _is_packed(self) -> bool:
        return self._pack is not None and self._pack.stands_for(self.weight)

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
