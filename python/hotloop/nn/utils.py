"""Clipping of gradients, with PyTorch's names: one call over all parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import kernels
from ..autograd import mark_written, wrap
from ..device_array import on_gpu
from ..tensor import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Any]:
    params = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [param._grad for param in params if param._grad is not None]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scales the gradients in place so that their norm, all taken together, is at most max_norm.

    `optimizer.step(max_norm=...)` does the same on the way, without writing the gradients.

    Args:
        parameters: tensors; those without a gradient are left out.
        max_norm: the bound.
        norm_type: 1, 2 or infinity.
        error_if_nonfinite: raise where the norm is NaN or infinite, before anything is changed.
        foreach: accepted and ignored.

    Returns:
        The norm before, a tensor without axes where the gradients lie.

    Raises:
        RuntimeError: the norm is not finite and error_if_nonfinite is set.
        ValueError: another norm_type, or a negative max_norm.
    """
    grads = _gradients(parameters)
    arrays = [grad._data for grad in grads]
    if error_if_nonfinite:
        norm = float(kernels.grad_norm(arrays, norm_type=norm_type))
        if not np.isfinite(norm):
            raise RuntimeError(
                f"clip_grad_norm_: the norm of the gradients must be finite, got {norm}; skip this "
                "step, or pass error_if_nonfinite=False"
            )
    norm = kernels.clip_grad_norm(arrays, max_norm, norm_type=norm_type)
    for grad in grads:
        mark_written(grad)
    if on_gpu(norm):
        return wrap(norm.astype(arrays[0].dtype))
    return wrap(np.array(norm, arrays[0].dtype if arrays else np.float32))


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Clamps every element of the gradients to [-clip_value, clip_value], in place.

    Args:
        parameters: tensors; those without a gradient are left out.
        clip_value: the bound, at least 0.
        foreach: accepted and ignored.
    """
    grads = _gradients(parameters)
    kernels.clip_grad_value([grad._data for grad in grads], clip_value)
    for grad in grads:
        mark_written(grad)
