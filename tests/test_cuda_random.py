"""csrc/kernels/cuda/random.cu and dropout.cu on the emulator: the numbers of the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop.kernels as hk
from cuda_args import SMALL, DropoutArgs, PermutationArgs, RandomArgs, dtype_code, pointer, small
from emulated import ORDERS, call, kernels, poisoned, thread_order, workspace

KEY = (0x1234567890ABCDEF, (1 << 63) + 7)
SIZES = [n for n in (1, 8, 31, 33, 64, 1000, 70_001) if small(n)]


def numbers(name: str, size: int, dtype: type, shift: float, scale: float, **more) -> np.ndarray:
    out = poisoned((size,), dtype)
    args = RandomArgs(pointer(out), size, dtype_code(out), *KEY, shift, scale)
    for field, value in more.items():
        setattr(args, field, value)
    with thread_order(kernels("random"), "random"):
        call(kernels("random"), name, args, (size + 31) // 32)
    return out


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_numbers_of_the_cpu(level, size, dtype):
    same = {"key": KEY, "dtype": dtype}
    uniform = hk.uniform(size, **same)
    assert numbers("random_uniform", size, dtype, 0.0, 1.0).tobytes() == uniform.tobytes()
    bernoulli = numbers("random_bernoulli", size, dtype, 0.0, 0.3)
    np.testing.assert_array_equal(bernoulli, uniform < dtype(0.3))
    normal = numbers("random_normal", size, dtype, 0.0, 1.0)
    if level == "generic":  # which has no fused multiply-add
        np.testing.assert_allclose(normal, hk.normal(size, **same), rtol=1e-5, atol=1e-5)
    else:
        assert normal.tobytes() == hk.normal(size, **same).tobytes()
        scaled = numbers("random_normal", size, dtype, 2.0, 0.5)
        assert scaled.tobytes() == hk.normal(size, mean=2.0, std=0.5, **same).tobytes()


def test_what_lies_on_the_device_moves_the_stream():
    draws = np.array([3, KEY[0]], np.uint64)
    args = {"stream": KEY[1] - 3, "seed": 5, "draws": pointer(draws)}
    moved = numbers("random_uniform", 100, np.float32, 0.0, 1.0, **args)
    assert moved.tobytes() == numbers("random_uniform", 100, np.float32, 0.0, 1.0).tobytes()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_as_on_the_cpu(rng, size, dtype):
    x = rng.standard_normal(size).astype(dtype)
    y = poisoned((size,), dtype)
    args = DropoutArgs(pointer(x), pointer(y), size, dtype_code(x), *KEY)
    args.threshold, args.scale = int(np.ceil(0.3 * 2**32)), 1 / 0.7
    want = hk.dropout(x, 0.3, key=KEY)
    want = want[0] if isinstance(want, tuple) else want
    call(kernels("dropout"), "dropout_apply", args, size)
    assert y.tobytes() == want.tobytes()
    args.y = pointer(x)
    with thread_order(kernels("dropout"), "reverse"):
        call(kernels("dropout"), "dropout_apply", args, size)
    assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("size", [1, 2, 3, 31, 1000] + [1023, 1024, 1025, 5000] * (not SMALL))
@pytest.mark.parametrize("order", ORDERS)
def test_the_permutation_of_the_cpu(size, order):
    """One that is made step by step, by steps that are taken side by side."""
    got = np.full(size, -1, np.int64)
    args = PermutationArgs(pointer(got), size, *KEY)
    room = np.full(workspace(kernels("random"), "permutation", args) // 8, -1, np.int64)
    args.scratch = pointer(room)
    with thread_order(kernels("random"), order):
        call(kernels("random"), "permutation", args, size)
    np.testing.assert_array_equal(got, hk.permutation(size, key=KEY))
