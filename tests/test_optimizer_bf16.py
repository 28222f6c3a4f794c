"""The bf16 copy of the parameters that an optimizer step writes in the same pass."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import kernels
from reference import LAYOUTS, assert_same_bits, empty_with_layout, with_layout

bfloat16 = pytest.importorskip("ml_dtypes").bfloat16

STEPS = {
    "sgd_step": (0, {}),
    "adam_step": (3, {"step": 2, "weight_decay": 0.1}),
    "adamw_step": (2, {"step": 2}),
    "adamax_step": (2, {"step": 2}),
    "nadam_step": (2, {"step": 2, "mu_product": 0.3}),
    "rmsprop_step": (3, {"momentum": 0.5}),
    "adagrad_step": (1, {"step": 2}),
    "adadelta_step": (2, {}),
    "lion_step": (1, {}),
    "lamb_step": (2, {"step": 2, "weight_decay": 0.1}),
}


def slots(rng, shape, count):
    arrays = [rng.normal(size=shape).astype(np.float32) for _ in range(2)]
    return arrays + [np.abs(rng.normal(size=shape)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("name", STEPS)
def test_copy_is_the_rounded_parameter(name, level, rng):
    step, (count, options) = getattr(kernels, name), STEPS[name]
    for size in (0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 4095, 4097, 9001):
        got = slots(rng, size, count)
        want = [a.copy() for a in got]
        whole = np.full(size + 2, 77, bfloat16)
        step(*got, lr=0.1, bf16_params=whole[1:-1], **options)
        step(*want, lr=0.1, **options)
        for a, b in zip(got, want):
            assert a.tobytes() == b.tobytes()
        assert whole[1:-1].tobytes() == got[0].astype(bfloat16).tobytes()
        assert whole[0] == whole[-1] == 77


def test_rounding(level):
    """Ties to even, denormals, overflow to infinity, NaN: as ml_dtypes converts."""
    bits = np.arange(0, 1 << 32, 65_521, dtype=np.uint64).astype(np.uint32)
    ties = (np.arange(0, 1 << 16, 7, dtype=np.uint32) << 16) | np.uint32(0x8000)
    p = np.concatenate([bits, ties, ties - 1, ties + 1]).view(np.float32)
    p = p[np.isfinite(p)]
    p = np.concatenate([p, np.array([np.inf, -np.inf, 0.0, -0.0], np.float32)])
    copy = np.zeros(p.size, bfloat16)
    with np.errstate(over="ignore"):
        kernels.sgd_step(p, np.zeros_like(p), lr=0.0, bf16_params=copy)
        assert copy.tobytes() == p.astype(bfloat16).tobytes()
    nan = np.full(40, np.nan, np.float32)
    copy = np.zeros(40, bfloat16)
    kernels.sgd_step(nan, np.zeros_like(nan), lr=0.0, bf16_params=copy)
    assert np.isnan(copy.astype(np.float32)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_lists_and_threads(level, rng, layout):
    plain = slots(rng, (5, 7, 19), 2)
    expected = [a.copy() for a in plain]
    kernels.adam_step(*expected, lr=0.1, step=1)
    copy = empty_with_layout((5, 7, 19), bfloat16, layout)
    for arrays in (plain, [with_layout(a, layout) for a in plain]):
        got = [a.copy() for a in arrays] if arrays is plain else arrays
        copy[...] = 0
        kernels.adam_step(*([a] for a in got), lr=0.1, step=1, bf16_params=[copy])
        np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
        assert copy.tobytes() == got[0].astype(bfloat16).tobytes()

    def call():
        arrays, out = slots(np.random.default_rng(1), 100_001, 2), np.zeros(100_001, bfloat16)
        kernels.adamw_step(*arrays, lr=0.1, step=1, bf16_params=out)
        return (*arrays, out.view(np.uint16))

    assert_same_bits(call)


def test_messages():
    p, g = np.ones(4, np.float32), np.ones(4, np.float32)
    step = kernels.sgd_step
    with pytest.raises(hl.DTypeError, match=r"bf16_params must be bfloat16.*got float32"):
        step(p, g, lr=0.1, bf16_params=np.zeros(4, np.float32))
    with pytest.raises(hl.ShapeError, match=r"bf16_params must have shape \(4,\), got \(5,\)"):
        step(p, g, lr=0.1, bf16_params=np.zeros(5, bfloat16))
    with pytest.raises(hl.ShapeError, match="bf16_params must hold as many arrays as params"):
        step([p], [g], lr=0.1, bf16_params=[])
    with pytest.raises(hl.DTypeError, match="bf16_params needs params of float32, got float64"):
        step(p.astype(float), g.astype(float), lr=0.1, bf16_params=np.zeros(4, bfloat16))
    frozen = np.zeros(4, bfloat16)
    frozen.flags.writeable = False
    with pytest.raises(hl.OutputError, match=r"bf16_params must be writable.*read-only"):
        step(p, g, lr=0.1, bf16_params=frozen)
    with pytest.raises(hl.OutputError, match="overlap"):
        step(p, g, lr=0.1, bf16_params=p.view(bfloat16)[:4])
    assert (p == 1).all()
