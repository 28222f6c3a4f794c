"""Tensors as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .device_array import to_device

if TYPE_CHECKING:
    from .tensor import Tensor

_UNMARKED = ("float32", "int64", "bool")  # what literals give


def tensor_text(tensor: Tensor) -> str:
    """`tensor([1., 2.], requires_grad=True)`, as PyTorch writes it."""
    name = "Parameter containing:\ntensor" if type(tensor).__name__ == "Parameter" else "tensor"
    data = to_device(tensor._data, None)
    body = np.array2string(data, separator=", ", prefix="tensor(", precision=4, threshold=1000)
    marks = []
    if data.size == 0 and data.ndim != 1:
        marks.append(f"size={data.shape}")
    if data.dtype.name not in _UNMARKED:
        marks.append(f"dtype={data.dtype.name}")
    if tensor.is_cuda:
        marks.append(f"device='{tensor.device}'")
    if tensor._node is not None:
        marks.append(f"grad_fn=<{tensor._node.name}>")
    elif tensor._needs:
        marks.append("requires_grad=True")
    return f"{name}({', '.join([body, *marks])})"
