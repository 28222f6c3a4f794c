"""Argument structs of kernels/<family>.h for ctypes, and the helpers that fill them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

I32, I64, F64, PTR = ctypes.c_int32, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
DIMS = 16


def dtype_code(array: np.ndarray) -> int:
    """DType of core/dispatch.h."""
    return {"float32": 0, "float64": 1, "int32": 5}[array.dtype.name]


def pointer(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


def steps(array: np.ndarray) -> list[int]:
    """Strides in elements."""
    return [step // array.itemsize for step in array.strides]


def fill(target: ctypes.Array, numbers: Sequence[int]) -> None:
    for i, number in enumerate(numbers):
        target[i] = number


class SoftmaxArgs(ctypes.Structure):
    _fields_ = [
        ("dtype", I32),
        ("op", I32),
        ("a", PTR),
        ("b", PTR),
        ("out", PTR),
        ("n", I64),
        ("axis_strides", I64 * 3),
        ("columns", ctypes.c_bool),
        ("unit_stride", ctypes.c_bool),
        ("stream", ctypes.c_bool),
        ("row_dims", I32),
        ("row_sizes", I64 * DIMS),
        ("row_strides", (I64 * DIMS) * 3),
    ]


class CrossEntropyArgs(ctypes.Structure):
    _fields_ = [
        ("dtype", I32),
        ("kind", I32),
        ("logits", PTR),
        ("dlogits", PTR),
        ("losses", PTR),
        ("labels", PTR),
        ("probabilities", PTR),
        ("weight", PTR),
        ("wide_labels", ctypes.c_bool),
        ("ignore_index", I64),
        ("scale", F64),
        ("smoothing", F64),
        ("weight_sum", F64),
        ("classes", I64),
        ("class_strides", I64 * 3),
        ("columns", ctypes.c_bool),
        ("unit_stride", ctypes.c_bool),
        ("stream", ctypes.c_bool),
        ("row_dims", I32),
        ("row_sizes", I64 * DIMS),
        ("row_strides", (I64 * DIMS) * 4),
    ]


class PairLossArgs(ctypes.Structure):
    _fields_ = [
        ("dtype", I32),
        ("op", I32),
        ("x", PTR),
        ("target", PTR),
        ("weight", PTR),
        ("pos_weight", PTR),
        ("losses", PTR),
        ("partials", PTR),
        ("dx", PTR),
        ("scale", F64),
        ("parameter", F64),
        ("n", I64),
    ]
