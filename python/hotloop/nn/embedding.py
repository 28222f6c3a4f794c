"""Embedding layer."""

from __future__ import annotations

from typing import Any, Self

from ..autograd import no_grad
from ..creation import empty
from ..ops.embedding import embedding
from ..tensor import Tensor
from .checks import positive
from .init import normal_
from .module import Module
from .parameter import Parameter

__all__ = ["Embedding"]


class Embedding(Module):
    """A table of vectors, looked up by index; the row padding_idx starts as zeros and stays.

    weight: (num_embeddings, embedding_dim). With max_norm, rows longer than that (in the norm of
    order norm_type) are shortened in place when they are looked up. Gradients are dense.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        rows = self.num_embeddings = positive("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = positive("Embedding", "embedding_dim", embedding_dim)
        if padding_idx is not None and not -rows <= padding_idx < rows:
            raise ValueError(
                f"Embedding: padding_idx must be in [{-rows}, {rows - 1}], got {padding_idx}"
            )
        if max_norm is not None and not max_norm >= 0:
            raise ValueError(f"Embedding: max_norm must not be negative, got {max_norm}")
        if sparse:
            raise ValueError("Embedding: sparse must be False, got True; gradients are dense")
        self.padding_idx = None if padding_idx is None else padding_idx % rows
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.sparse = sparse
        self.weight = Parameter(empty(num_embeddings, embedding_dim, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New initial values, from the standard normal distribution."""
        normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx] = 0.0

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Self:
        """A layer over this table (rows, width); frozen unless said otherwise."""
        rows, width = embeddings.shape
        layer = cls(
            rows, width, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse,
            dtype=embeddings.dtype,
        )  # fmt: skip
        layer.weight = Parameter(embeddings.detach(), requires_grad=not freeze)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        return embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type,
            self.scale_grad_by_freq,
        )  # fmt: skip

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        return text + (", scale_grad_by_freq=True" if self.scale_grad_by_freq else "")
