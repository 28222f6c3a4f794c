"""Argument structs of kernels/<family>.h for ctypes, and the helpers that fill them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import numpy as np

I32, I64, F64, PTR = ctypes.c_int32, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
DIMS = 16
# The sanitizers' run: every access of every thread is checked, which takes its time.
SMALL = bool(os.environ.get("HOTLOOP_SMALL"))
MOST = 1500 if SMALL else 1 << 60


def small(elements: int) -> bool:
    """Whether a case of that many elements is to be run."""
    return elements <= MOST


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


def rows_of(arrays: int) -> list[tuple[str, type]]:
    """How rows along one axis lie in as many arrays."""
    return [
        ("columns", ctypes.c_bool),
        ("unit_stride", ctypes.c_bool),
        ("stream", ctypes.c_bool),
        ("row_dims", I32),
        ("row_sizes", I64 * DIMS),
        ("row_strides", (I64 * DIMS) * arrays),
        ("memory", I64 * 4),
    ]


class SoftmaxArgs(ctypes.Structure):
    _fields_ = [
        ("dtype", I32),
        ("op", I32),
        ("a", PTR),
        ("b", PTR),
        ("out", PTR),
        ("n", I64),
        ("axis_strides", I64 * 3),
        *rows_of(3),
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
        *rows_of(4),
        ("check", PTR * 3),
        ("counted", PTR),
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


# math::OptimizerScalars<double>
SCALARS = ["gradient", "lr", "decay", "eps", "beta1", "rest1", "beta2", "rest2"]
SCALARS += ["root_scale", "extra"]
RULES = ["sgd", "momentum", "adam", "amsgrad", "adamax", "nadam", "rmsprop", "rmsprop_momentum"]
RULES += ["rmsprop_centered", "rmsprop_momentum_centered", "adagrad", "adadelta", "lion"]
RULES += ["lamb_moments", "lamb_apply", "scale", "clamp", "sum_abs", "sum_squares", "largest"]


class OptimizerScalars(ctypes.Structure):
    _fields_ = [
        *((name, F64) for name in SCALARS),
        ("kind", ctypes.c_int),
        ("first", ctypes.c_bool),
        ("nesterov", ctypes.c_bool),
    ]


class OptimizerTensor(ctypes.Structure):
    _fields_ = [
        ("array", PTR * 5),
        ("first_unit", I64),
        ("size", I64),
        ("ndim", ctypes.c_int),
        ("shape", PTR),
        ("strides", PTR * 5),
        ("dense", ctypes.c_bool),
        ("factor", F64),
        ("copy", PTR),
        ("copy_strides", PTR),
    ]


class OptimizerArgs(ctypes.Structure):
    _fields_ = [
        ("tensors", PTR),
        ("count", I64),
        ("dtype", I32),
        ("rule", I32),
        ("scalars", OptimizerScalars),
        ("partials", PTR),
        ("lr", PTR),
        ("step", PTR),
        ("grad_scale", PTR),
        ("wide_lr", ctypes.c_bool),
        ("wide_step", ctypes.c_bool),
        ("wide_scale", ctypes.c_bool),
        ("given_lr", F64),
        ("given_step", F64),
        ("slowing", F64),
        ("clipping", PTR),
        ("factors", PTR),
        ("scratch", PTR),
    ]


class OptimizerNormArgs(ctypes.Structure):
    _fields_ = [
        ("rule", I32),
        ("partials", PTR),
        ("count", I64),
        ("gradient", F64),
        ("grad_scale", PTR),
        ("wide_scale", ctypes.c_bool),
        ("most", F64),
        ("norm", PTR),
        ("clipping", PTR),
        ("scale", PTR),
    ]


class OptimizerLengthsArgs(ctypes.Structure):
    _fields_ = [
        ("tensors", PTR),
        ("count", I64),
        ("partials", PTR),
        ("lr", PTR),
        ("wide_lr", ctypes.c_bool),
        ("given_lr", F64),
        ("factors", PTR),
    ]


class ReduceArgs(ctypes.Structure):
    _fields_ = [
        ("dtype", I32),
        ("op", I32),
        ("x", PTR),
        ("out", PTR),
        ("second", PTR),
        ("divisor", F64),
        ("columns", ctypes.c_bool),
        ("wide", ctypes.c_bool),
        ("reduced", I64),
        ("chunk", I64),
        ("outputs", I64),
        ("out_chunk_stride", I64),
        ("kept_dims", I32),
        ("reduced_dims", I32),
        ("kept_sizes", I64 * DIMS),
        ("kept_strides", I64 * DIMS),
        ("out_strides", I64 * DIMS),
        ("reduced_sizes", I64 * DIMS),
        ("reduced_strides", I64 * DIMS),
        ("scratch", PTR),
        ("divisor_at", PTR),
    ]


class AlongArgs(ctypes.Structure):
    _fields_ = [
        ("dtype", I32),
        ("smallest", ctypes.c_bool),
        ("columns", ctypes.c_bool),
        ("x", PTR),
        ("out", PTR),
        ("size", I64),
        ("stride", I64),
        ("out_stride", I64),
        ("kept_dims", I32),
        ("kept_sizes", I64 * DIMS),
        ("kept_strides", I64 * DIMS),
        ("out_strides", I64 * DIMS),
    ]


class NormStrides(ctypes.Structure):
    _fields_ = [("n", I64), ("s", I64), ("c", I64)]


class NormArgs(ctypes.Structure):
    _fields_ = [
        ("dtype", I32),
        ("channels_last", ctypes.c_bool),
        ("n", I64),
        ("s", I64),
        ("c", I64),
        ("sets", I64),
        ("per_group", I64),
        ("x", PTR),
        ("other", PTR),
        ("out", PTR),
        ("x_strides", NormStrides),
        ("other_strides", NormStrides),
        ("out_strides", NormStrides),
        ("weight", PTR),
        ("bias", PTR),
        ("eps", F64),
        ("activation", I32),
        ("alpha", F64),
        ("mean", PTR),
        ("rstd", PTR),
        ("moments", PTR),
        ("constant", ctypes.c_bool),
        ("dweight", PTR),
        ("dbias", PTR),
        ("stream", ctypes.c_bool),
        ("chunk_n", I64),
        ("chunk_s", I64),
        ("chunks_n", I64),
        ("chunks_s", I64),
        ("piece", I64),
        ("parts", I64),
        ("partials", PTR),
        ("coefficients", PTR),
        ("sums", PTR),
        ("scratch", PTR),
    ]


class NormRunningArgs(ctypes.Structure):
    _fields_ = [
        ("dtype", I32),
        ("c", I64),
        ("sets", I64),
        ("running_mean", PTR),
        ("running_var", PTR),
        ("mean_stride", I64),
        ("var_stride", I64),
        ("moments", PTR),
        ("momentum", F64),
        ("factor", F64),
        ("mean", PTR),
        ("rstd", PTR),
        ("eps", F64),
    ]


class RowNormArgs(ctypes.Structure):
    _fields_ = [
        ("dtype", I32),
        ("rms", ctypes.c_bool),
        ("rows", I64),
        ("n", I64),
        ("x", PTR),
        ("other", PTR),
        ("out", PTR),
        ("x_stride", I64),
        ("other_stride", I64),
        ("out_stride", I64),
        ("total", PTR),
        ("weight", PTR),
        ("bias", PTR),
        ("eps", F64),
        ("activation", I32),
        ("alpha", F64),
        ("mean", PTR),
        ("rstd", PTR),
        ("dweight", PTR),
        ("dbias", PTR),
        ("stream", ctypes.c_bool),
        ("chunk", I64),
        ("chunks", I64),
        ("partials", PTR),
        ("scratch", PTR),
    ]


class RandomArgs(ctypes.Structure):
    _fields_ = [
        ("out", PTR),
        ("size", I64),
        ("dtype", I32),
        ("seed", ctypes.c_uint64),
        ("stream", ctypes.c_uint64),
        ("shift", F64),
        ("scale", F64),
        ("draws", PTR),
    ]


class PermutationArgs(ctypes.Structure):
    _fields_ = [
        ("order", PTR),
        ("size", I64),
        ("seed", ctypes.c_uint64),
        ("stream", ctypes.c_uint64),
        ("draws", PTR),
        ("scratch", PTR),
    ]


class DropoutArgs(ctypes.Structure):
    _fields_ = [
        ("x", PTR),
        ("y", PTR),
        ("size", I64),
        ("dtype", I32),
        ("seed", ctypes.c_uint64),
        ("stream", ctypes.c_uint64),
        ("threshold", ctypes.c_uint64),
        ("scale", F64),
        ("draws", PTR),
        ("stream_stores", ctypes.c_bool),
    ]


class EmbeddingArgs(ctypes.Structure):
    _fields_ = [
        ("dtype", I32),
        ("positions", I64),
        ("width", I64),
        ("indices", PTR),
        ("wide", ctypes.c_bool),
        ("weight", PTR),
        ("weight_stride", I64),
        ("out", PTR),
        ("rows", I64),
        ("check", PTR * 3),
    ]


class EmbeddingBackwardArgs(ctypes.Structure):
    _fields_ = [
        ("dtype", I32),
        ("positions", I64),
        ("width", I64),
        ("rows", I64),
        ("indices", PTR),
        ("wide", ctypes.c_bool),
        ("padding", I64),
        ("by_frequency", ctypes.c_bool),
        ("dy", PTR),
        ("dy_stride", I64),
        ("dweight", PTR),
        ("stream", ctypes.c_bool),
        ("ends", PTR),
        ("order", PTR),
        ("scratch", PTR),
        ("check", PTR * 3),
    ]
