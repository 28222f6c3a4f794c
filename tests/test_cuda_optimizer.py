"""csrc/kernels/cuda/optimizer.cu on the emulator, against the CPU's steps."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import pytest

import hotloop.kernels as hk
from cuda_args import (
    I64,
    RULES,
    OptimizerArgs,
    OptimizerLengthsArgs,
    OptimizerNormArgs,
    OptimizerTensor,
    dtype_code,
    pointer,
    steps,
)
from emulated import call, kernels, poisoned, thread_order, workspace

BLOCK = 4096
Lists = Sequence[Sequence[np.ndarray]]


class Tensors:
    """The list that OptimizerArgs points to; slots are the arrays of each kind."""

    def __init__(self, slots: Lists) -> None:
        self.first = slots[0][0]
        self.table = (OptimizerTensor * len(slots[0]))()
        self.kept = []
        self.units = 0
        for tensor, *arrays in zip(self.table, *slots, strict=True):
            value = arrays[0]
            tensor.first_unit, tensor.size = self.units, value.size
            tensor.dense = all(array.flags.c_contiguous for array in arrays)
            shape = (value.size,) if tensor.dense else value.shape
            tensor.ndim = len(shape)
            tensor.shape = self.keep((I64 * len(shape))(*shape))
            for k, array in enumerate(arrays):
                tensor.array[k] = pointer(array)
                strides = [1] if tensor.dense else steps(array)
                tensor.strides[k] = self.keep((I64 * len(shape))(*strides))
            self.units += -(-value.size // BLOCK)

    def keep(self, thing: ctypes.Array) -> int:
        self.kept.append(thing)
        return ctypes.addressof(thing)

    def run(self, rule: str, scalars: dict, order: str = "forward", **fields) -> None:
        args = OptimizerArgs(ctypes.addressof(self.table), len(self.table))
        args.dtype, args.rule = dtype_code(self.first), RULES.index(rule)
        for name, value in {"gradient": 1.0, **scalars}.items():
            setattr(args.scalars, name, value)
        for name, value in fields.items():
            setattr(args, name, pointer(value) if isinstance(value, np.ndarray) else value)
        loaded = kernels("optimizer")
        scratch = np.zeros(workspace(loaded, "optimizer", args), np.uint8)
        args.scratch = pointer(scratch)
        with thread_order(loaded, order):
            call(loaded, "optimizer", args, self.units)

    def partials(self, rule: str, order: str = "forward") -> np.ndarray:
        partials = poisoned((self.units,), np.float64)
        self.run(rule, {}, order, partials=partials)
        return partials


SHAPES = [(1,), (3, 5), (4096,), (33, 250)]


def slots(rng, count: int, dtype: type, strided: bool = False) -> list[list[np.ndarray]]:
    result = []
    for k in range(count):
        arrays = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
        if k > 1:
            arrays = [np.abs(array) for array in arrays]
        if strided and k % 2 == 0:
            arrays[3] = np.asfortranarray(arrays[3])
        if strided and k == 1:
            arrays[1] = np.repeat(arrays[1], 2, axis=1)[:, ::2]
        result.append(arrays)
    result[0][2] = np.concatenate([result[0][2], result[0][2]])[1:4097]  # off by one element
    return result


LR, STEP, EPS = 0.02, 3.0, 1e-6
BETAS = {"beta1": 0.8, "rest1": 1 - 0.8, "beta2": 0.95, "rest2": 1 - 0.95}
ROOT = 1 / np.sqrt(1 - 0.95**STEP)
FIRST = 1 - 0.8**STEP
GIVEN = {"lr": LR, "eps": EPS}
ADAM = {**BETAS, "lr": LR / FIRST, "root_scale": ROOT, "eps": EPS}
PLAIN = {"betas": (0.8, 0.95), "lr": LR, "step": 3, "eps": EPS}
ALPHA = {"beta2": 0.9, "rest2": 1 - 0.9}
L2 = {"kind": 1, "decay": 0.1}
DECOUPLED = {"kind": 2, "decay": 1 - LR * 0.1}
# rule: arrays, the CPU's function, its keywords, the scalars that the binding makes of them
CASES = {
    "sgd": (2, "sgd_step", {"lr": LR, "weight_decay": 0.1}, {"lr": LR, **L2}),
    "momentum": (
        3,
        "sgd_step",
        {"lr": LR, "momentum": 0.7, "nesterov": True, "step": 2},
        {"lr": LR, "beta1": 0.7, "rest1": 1.0, "nesterov": True},
    ),
    "adam": (4, "adamw_step", {**PLAIN, "weight_decay": 0.1}, {**ADAM, **DECOUPLED}),
    "amsgrad": (5, "adam_step", {**PLAIN, "weight_decay": 0.1}, {**ADAM, **L2}),
    "adamax": (4, "adamax_step", PLAIN, {**BETAS, "lr": LR / FIRST, "eps": EPS}),
    "rmsprop": (3, "rmsprop_step", {**GIVEN, "alpha": 0.9}, {**GIVEN, **ALPHA}),
    "rmsprop_momentum": (
        4,
        "rmsprop_step",
        {**GIVEN, "alpha": 0.9, "momentum": 0.5},
        {**GIVEN, **ALPHA, "extra": 0.5},
    ),
    "adagrad": (3, "adagrad_step", {**GIVEN, "step": 1}, GIVEN),
    "adadelta": (4, "adadelta_step", {**GIVEN, "rho": 0.9}, {**GIVEN, **ALPHA}),
    "lion": (
        3,
        "lion_step",
        {"lr": LR, "betas": (0.8, 0.95), "weight_decay": 0.1},
        {"lr": LR, **BETAS, **DECOUPLED},
    ),
}


@pytest.mark.parametrize("strided", [False, True], ids=["dense", "strided"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", CASES)
def test_steps_as_on_the_cpu(rng, rule, dtype, strided):
    count, name, keywords, scalars = CASES[rule]
    mine = slots(rng, count, dtype, strided)
    other = [[array.copy() for array in arrays] for arrays in mine]
    theirs = [[array.copy() for array in arrays] for arrays in mine]
    getattr(hk, name)(*theirs, **keywords)
    Tensors(mine).run(rule, scalars)
    Tensors(other).run(rule, scalars, "random")
    tolerance = 8 * np.finfo(dtype).eps
    for ours, reordered, cpu in zip(mine, other, theirs, strict=True):
        for x, y, z in zip(ours, reordered, cpu, strict=True):
            assert x.tobytes() == y.tobytes()
            np.testing.assert_allclose(x, z, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rule", ["adam", "momentum", "adagrad", "adamax"])
@pytest.mark.parametrize("wide", [np.float32, np.float64])
def test_lr_and_step_from_the_device(rng, rule, wide):
    """As with the scalars that a binding makes of the same numbers."""
    count = CASES[rule][0]
    ours = slots(rng, count, np.float32)
    theirs = [[array.copy() for array in arrays] for arrays in ours]
    lr, step = np.array(0.125, wide), np.array(1 if rule == "momentum" else 4, wide)
    scalars = {**BETAS, "eps": EPS, "kind": 2, "decay": 1 - 0.125 * 0.5}
    first = 1 - 0.8 ** float(step)
    settled = {
        "adam": {"lr": 0.125 / first, "root_scale": 1 / np.sqrt(1 - 0.95 ** float(step))},
        "momentum": {"lr": 0.125, "first": True},
        "adagrad": {"lr": 0.125 / (1 + 3 * 0.5)},
        "adamax": {"lr": 0.125 / first},
    }[rule]
    width = {"wide_lr": wide is np.float64, "wide_step": wide is np.float64}
    args = Tensors(ours)
    fields = {name: value for name, value in scalars.items() if name != "decay"}
    args.run(rule, fields, lr=lr, step=step, slowing=0.5, **width)
    Tensors(theirs).run(rule, {**scalars, **settled})
    for mine, other in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_and_clipping_stay_on_the_device(rng, dtype, strided):
    arrays = slots(rng, 1, dtype, strided)[0]
    flat = np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
    list_ = Tensors([arrays])
    norm, clipping = np.zeros(()), np.zeros(())
    for rule, want in {
        "sum_abs": np.abs(flat).sum(),
        "sum_squares": np.sqrt((flat**2).sum()),
        "largest": np.abs(flat).max(),
    }.items():
        partials = list_.partials(rule)
        assert partials.tobytes() == list_.partials(rule, "random").tobytes()
        args = OptimizerNormArgs(RULES.index(rule), pointer(partials), partials.size, -0.5)
        args.most = 1.5
        args.norm, args.clipping = pointer(norm), pointer(clipping)
        call(kernels("optimizer"), "optimizer_norm", args)
        np.testing.assert_allclose(norm, want / 2, rtol=1e-6)
        np.testing.assert_allclose(clipping, min(1.0, 1.5 / (want / 2 + 1e-6)), rtol=1e-6)
    list_.run("scale", {}, clipping=clipping)
    after = np.concatenate([array.ravel() for array in arrays])
    np.testing.assert_allclose(after, flat * float(clipping), rtol=4 * np.finfo(dtype).eps)
    list_.run("clamp", {"eps": 0.1})
    assert all(np.abs(array).max() <= dtype(0.1) for array in arrays)


def test_a_nan_is_the_largest_and_stays(rng):
    arrays = slots(rng, 1, np.float32)[0]
    arrays[3][20, 20] = np.nan
    list_ = Tensors([arrays])
    assert np.isnan(list_.partials("largest")).any()
    list_.run("clamp", {"eps": 0.1})
    assert np.isnan(arrays[3][20, 20])


@pytest.mark.parametrize("strided", [False, True])
def test_lamb(rng, strided):
    ours = slots(rng, 4, np.float64, strided)
    ours[0][1][...] = 0.0  # no length: the step is lr
    theirs = [[array.copy() for array in arrays] for arrays in ours]
    hk.lamb_step(*theirs, lr=LR, step=3, betas=(0.8, 0.95), eps=EPS, weight_decay=0.1)
    list_ = Tensors(ours)
    scalars = {**BETAS, "root_scale": ROOT, "eps": EPS, "extra": 1 / FIRST, "decay": 0.1}
    partials = poisoned((list_.units, 2), np.float64)
    list_.run("lamb_moments", scalars, "random", partials=partials)
    factors = poisoned((len(SHAPES),), np.float64)
    args = OptimizerLengthsArgs(ctypes.addressof(list_.table), len(SHAPES), pointer(partials))
    args.given_lr, args.factors = LR, pointer(factors)
    call(kernels("optimizer"), "optimizer_lengths", args, len(SHAPES))
    list_.run("lamb_apply", scalars, factors=factors)
    for mine, other in zip(ours, theirs, strict=True):
        for x, y in zip(mine, other, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


def test_more_tensors_than_a_launch_takes(rng):
    arrays = [rng.standard_normal(1 + i % 7).astype(np.float32) for i in range(150)]
    gradients = [rng.standard_normal(array.size).astype(np.float32) for array in arrays]
    want = [a - np.float32(0.5) * g for a, g in zip(arrays, gradients, strict=True)]
    Tensors([arrays, gradients]).run("sgd", {"lr": 0.5})
    for array, expected in zip(arrays, want, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-7)
