"""Optimizer steps: values against float64 and PyTorch, layouts, lists, threads, bad input."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import kernels
from hotloop.kernels import adam_step, adamw_step, lamb_step, sgd_step
from reference import LAYOUTS, assert_close, assert_same_bits, guarded, with_layout

SIZES = (0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 4095, 4096, 4097)
SGD_CASES = (
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
)
ADAM_CASES = (
    (adam_step, {}),
    (adam_step, {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}),
    (adam_step, {"betas": (0.0, 0.0)}),
    (adamw_step, {}),
    (adamw_step, {"weight_decay": 0.0}),
    (adamw_step, {"weight_decay": 0.3, "betas": (0.5, 0.9)}),
)


def reference_sgd(
    p, g, b, *, lr, step, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0
):
    d = g + weight_decay * p
    if momentum:
        b = d if step == 1 else momentum * b + (1 - dampening) * d
        d = d + momentum * b if nesterov else b
    return p - lr * d, b


def reference_adam(p, g, m, v, *, lr, step, betas=(0.9, 0.999), eps=1e-8, weight_decay, decoupled):
    if decoupled:
        p = p * (1 - lr * weight_decay)
    else:
        g = g + weight_decay * p
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


def adam_reference_of(kernel, options):
    decoupled = kernel is adamw_step
    full = {"weight_decay": 0.01 if decoupled else 0.0, **options}
    return lambda *arrays, **rest: reference_adam(*arrays, **rest, **full, decoupled=decoupled)


@pytest.mark.parametrize("options", SGD_CASES)
def test_sgd_values(level, dtype, rng, options):
    for size in SIZES:
        (p, check), b = guarded(size, dtype), np.full(size, np.nan, dtype)  # b: not read at step 1
        p[...] = rng.normal(size=size)
        want_p, want_b = p.astype(np.float64), np.zeros(size)
        for step in (1, 2, 3):
            g = rng.normal(size=size).astype(dtype)
            want_p, want_b = reference_sgd(
                want_p, g.astype(np.float64), want_b, lr=0.1, step=step, **options
            )
            assert sgd_step(p, g, b, lr=0.1, step=step, **options) is None
        assert_close(p, want_p, depth=12, name=f"p of {size}")
        if options.get("momentum"):
            assert_close(b, want_b, depth=12, name=f"b of {size}")
        check()


@pytest.mark.parametrize(("kernel", "options"), ADAM_CASES)
def test_adam_values(level, dtype, rng, kernel, options):
    reference = adam_reference_of(kernel, options)
    for size in SIZES:
        (p, check), m, v = guarded(size, dtype), np.zeros(size, dtype), np.zeros(size, dtype)
        p[...] = rng.normal(size=size)
        want = p.astype(np.float64), np.zeros(size), np.zeros(size)
        for step in (1, 2, 3):
            g = rng.uniform(1, 5, size).astype(dtype)  # no g - m that almost cancels to 0
            want = reference(want[0], g.astype(np.float64), *want[1:], lr=0.01, step=step)
            assert kernel(p, g, m, v, lr=0.01, step=step, **options) is None
        for got, expected, name in zip((p, m, v), want, "pmv"):
            assert_close(got, expected, depth=30, name=f"{name} of {size}")
        check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(level, rng, dtype, layout):
    shape = (5, 1, 7, 19)
    plain = [np.abs(rng.normal(size=shape)).astype(dtype) for _ in range(4)]
    want = [a.copy() for a in plain]
    adam_step(*want, lr=0.1, step=2)
    for which in range(4):  # one array of another layout, then all of them
        got = [with_layout(a, layout if i == which else "contiguous") for i, a in enumerate(plain)]
        adam_step(*got, lr=0.1, step=2)
        for a, b in zip(got, want):
            assert_close(a, b, depth=4)
    got = [with_layout(a, layout) for a in plain]
    adam_step(*got, lr=0.1, step=2)
    for a, b in zip(got, want):
        assert_close(a, b, depth=4)


def test_permuted_views_and_long_strided_pieces(rng):
    base = [np.abs(rng.normal(size=(60, 50, 9))) for _ in range(4)]
    want = [a.copy() for a in base]
    adam_step(*want, lr=0.1, step=1)
    views = [a.copy().transpose(2, 0, 1) for a in base]
    adam_step(*views, lr=0.1, step=1)
    mixed = [a.copy().transpose(2, 0, 1) for a in base]
    mixed[1] = np.ascontiguousarray(mixed[1])
    adam_step(*mixed, lr=0.1, step=1)
    for got in (views, mixed):
        for a, b in zip(got, want):
            assert_close(a, b.transpose(2, 0, 1), depth=4)


def tensors(rng, dtype=np.float32):
    shapes = [(30, 20), (), (0, 3), (5000,), (17,), (3, 4, 5), (4096,), (1, 1)]
    return [[np.array(np.abs(rng.normal(size=s)), dtype) for s in shapes] for _ in range(4)]


def test_same_bits_wherever_arrays_begin(level, dtype, rng):
    """Whole lines are stepped over from the parameter's first one on, masked parts beside them."""
    for size in (1, 5, 16, 61, 200, 4096 + 203):
        values = [rng.standard_normal(size).astype(dtype) for _ in range(4)]
        values[3] = np.abs(values[3])
        expected = [value.copy() for value in values]
        adam_step(*expected, lr=0.1, step=3)
        for shifts in ((1, 1, 1, 1), (4, 4, 4, 4), (15, 2, 0, 7), (0, 3, 3, 9)):
            memory = [np.full(size + 32, 7.0, dtype) for _ in values]
            arrays = [m[shift : shift + size] for m, shift in zip(memory, shifts)]
            for array, value in zip(arrays, values):
                array[:] = value
            adam_step(*arrays, lr=0.1, step=3)
            for array, value, m, shift in zip(arrays, expected, memory, shifts):
                np.testing.assert_array_equal(array, value)
                assert (m[:shift] == 7).all()
                assert (m[shift + size :] == 7).all()


def test_lists_are_the_single_steps(rng, dtype):
    many = tensors(rng, dtype)
    single = [[a.copy() for a in slot] for slot in many]
    adamw_step(*many, lr=0.1, step=3)
    for parts in zip(*single):
        adamw_step(*parts, lr=0.1, step=3)
    for got, want in zip(many, single):
        for a, b in zip(got, want):
            assert a.tobytes() == b.tobytes()
    sgd_step(tuple(many[0]), many[1], many[2], lr=0.1, momentum=0.5)
    sgd_step(tuple(many[0]), many[1], lr=0.1)
    sgd_step([], [], lr=0.1)


def test_mixed_dtypes_in_one_list(rng):
    f32, f64 = tensors(rng), tensors(rng, np.float64)
    mixed = [[a.copy() for pair in zip(x, y) for a in pair] for x, y in zip(f32, f64)]
    adam_step(*f32, lr=0.1, step=1)
    adam_step(*f64, lr=0.1, step=1)
    adam_step(*mixed, lr=0.1, step=1)
    for got, want in zip(mixed[0], [a for pair in zip(f32[0], f64[0]) for a in pair]):
        assert got.tobytes() == want.tobytes()


def test_same_bits_for_any_threads(rng, dtype):
    start = [rng.normal(size=300_001).astype(dtype), rng.normal(size=(200, 333)).astype(dtype)]
    grads = [rng.normal(size=a.shape).astype(dtype) for a in start]

    def call(kernel):
        p, m, v = ([a.copy() for a in start] for _ in range(3))
        v = [np.abs(a) for a in v]
        if kernel is sgd_step:
            kernel(p, grads, m, lr=0.1, step=2, momentum=0.9)
        else:
            kernel(p, grads, m, v, lr=0.1, step=2, weight_decay=0.1)
        return (*p, *m, *v)

    for kernel in (sgd_step, adam_step, adamw_step):
        assert_same_bits(lambda kernel=kernel: call(kernel))


def test_numbers_may_be_arrays(rng):
    a, b = tensors(rng), None
    b = [[x.copy() for x in slot] for slot in a]
    lr, step = np.array(0.1, np.float64), np.array(3.0, np.float32)
    adam_step(*a, lr=lr, step=step)
    adam_step(*b, lr=0.1, step=3)
    sgd_step(a[0], a[1], lr=np.float64(0.1), step=np.int64(1))
    sgd_step(b[0], b[1], lr=0.1)
    for x, y in zip(a[0], b[0]):
        assert x.tobytes() == y.tobytes()


def test_nan_and_inf_spread_only_where_they_are(dtype):
    p, m, v = np.ones(40, dtype), np.zeros(40, dtype), np.zeros(40, dtype)
    g = np.ones(40, dtype)
    g[7], g[9], p[11] = np.nan, np.inf, np.inf
    adam_step(p, g, m, v, lr=0.1, step=1)
    assert np.isnan(p[7])
    assert np.isnan(p[9])
    assert p[11] == np.inf  # no weight decay: p does not join the gradient
    assert np.isfinite(np.delete(p, [7, 9, 11])).all()


def zeros_and(rng, size, dtype, count):
    """p, g and state as each rule begins with it."""
    p, g = (rng.normal(size=size).astype(dtype) for _ in range(2))
    return [p, g, *(np.zeros(size, dtype) for _ in range(count))]


# Each rule's references are PyTorch's own code, in tests/test_optim.py, or the formula here.
EVERY_STEP = {
    "sgd_step": (1, {"step": 2, "momentum": 0.9, "weight_decay": 0.1}),
    "adam_step": (3, {"step": 2, "weight_decay": 0.1}),
    "adamw_step": (2, {"step": 2}),
    "adamax_step": (2, {"step": 2, "weight_decay": 0.1}),
    "nadam_step": (2, {"step": 2, "mu_product": 0.3, "weight_decay": 0.1}),
    "rmsprop_step": (3, {"momentum": 0.5, "weight_decay": 0.1, "eps": 0.1}),
    "adagrad_step": (1, {"step": 2, "lr_decay": 0.1}),
    "adadelta_step": (2, {"rho": 0.8}),
    "lion_step": (1, {"weight_decay": 0.1}),
    "lamb_step": (2, {"step": 2, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", EVERY_STEP)
def test_lr_and_step_are_read_from_arrays_at_each_call(name, rng):
    kernel, (count, options) = getattr(kernels, name), EVERY_STEP[name]
    numbers = {key: value for key, value in options.items() if key in ("step", "mu_product")}
    fixed = {key: value for key, value in options.items() if key not in numbers}
    got = zeros_and(rng, 50, np.float64, count)
    want = [a.copy() for a in got]
    arrays = {key: np.zeros(()) for key in ("lr", "grad_scale", "max_norm", *numbers)}
    for turn in range(3):
        now = {"lr": 0.1 / (turn + 1), "grad_scale": 1.0 + turn, "max_norm": 2.0 - turn / 2}
        now |= {key: value + turn if key == "step" else value for key, value in numbers.items()}
        for key, value in now.items():
            arrays[key][...] = value  # changed between the calls, as between recorded steps
        kernel(*got, **arrays, **fixed)
        kernel(*want, **now, **fixed)
        for a, b in zip(got, want):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", EVERY_STEP)
def test_every_level_layout_and_thread_count_agrees(name, level, dtype, rng):
    kernel, (count, options) = getattr(kernels, name), EVERY_STEP[name]
    shape = (5, 7, 19)
    start = zeros_and(rng, shape, dtype, count)
    # Well-conditioned: no root of almost nothing, no sign of a sum that almost cancels.
    start[2:] = [1 + np.abs(rng.normal(size=shape)).astype(dtype) for _ in start[2:]]
    if name == "rmsprop_step":
        start[4][...] = 0
    want = [a.astype(np.float64) for a in start]
    kernel(*want, lr=0.1, **options)
    for layout in LAYOUTS:
        got = [with_layout(a, layout) for a in start]
        kernel(*got, lr=0.1, **options)
        for a, b in zip(got, want):
            assert_close(a, b, depth=40, name=f"{name} {layout}")
    for size in SIZES:
        parts = [guarded(size, dtype) for _ in start]
        filled = zeros_and(rng, size, dtype, count)
        for (a, _), b in zip(parts, filled):
            a[...] = b
        kernel(*(a for a, _ in parts), lr=0.1, **options)
        for _, check in parts:
            check()

    def call():
        arrays = zeros_and(np.random.default_rng(5), 100_001, dtype, count)
        kernel(*arrays, lr=0.1, max_norm=1.0, **options)
        return tuple(arrays)

    assert_same_bits(call)


def test_lion_and_lamb_are_their_formulas(level, dtype, rng):
    for size in (1, 17, 4097, 9000):
        p, g, m = zeros_and(rng, size, dtype, 1)
        want_p, want_m = p.astype(np.float64), np.zeros(size)
        for _ in range(3):
            wide = g.astype(np.float64)
            want_p = want_p * (1 - 0.1 * 0.2) - 0.1 * np.sign(0.9 * want_m + 0.1 * wide)
            want_m = 0.99 * want_m + 0.01 * wide
            kernels.lion_step(p, g, m, lr=0.1, weight_decay=0.2)
        assert_close(p, want_p, depth=12)
        assert_close(m, want_m, depth=12)
        kernels.lion_step(p[:1], np.zeros(1, dtype), np.zeros(1, dtype), lr=0.1)  # sign(0) is 0
        assert_close(p[0], want_p[0], depth=12)

        p, g, m, v = zeros_and(rng, size, dtype, 2)
        want = [a.astype(np.float64) for a in (p, m, v)]
        for step in (1, 2, 3):
            wide = g.astype(np.float64)
            want[1] = 0.9 * want[1] + 0.1 * wide
            want[2] = 0.999 * want[2] + 0.001 * wide**2
            direction = (
                want[1] / (1 - 0.9**step) / (np.sqrt(want[2] / (1 - 0.999**step)) + 1e-6)
                + 0.01 * want[0]
            )
            ratio = np.linalg.norm(want[0]) / np.linalg.norm(direction)
            want[0] = want[0] - 0.1 * ratio * direction
            lamb_step(p, g, m, v, lr=0.1, step=step, weight_decay=0.01)
        for got, expected in zip((p, m, v), want):
            assert_close(got, expected, depth=200)
    p, zero = np.zeros(5, dtype), np.zeros(5, dtype)
    # |p| = 0: a step of length lr
    lamb_step(p, np.ones(5, dtype), zero, zero.copy(), lr=0.1, step=1, eps=0.0)
    assert_close(p, np.full(5, -0.1), depth=20)


def test_gradients_are_scaled_clipped_and_turned(level, rng, dtype):
    slots = tensors(rng, dtype)
    norm = np.sqrt(sum((a.astype(np.float64) ** 2).sum() for a in slots[1]))
    for max_norm in (None, 0.25, 1e9):
        got, want = ([[a.copy() for a in s] for s in slots] for _ in range(2))
        factor = -0.5 if max_norm is None else -0.5 * min(1, max_norm / (0.5 * norm + 1e-6))
        want[1] = [np.array(a * factor, dtype) for a in want[1]]
        found = adam_step(*got, lr=0.1, step=2, grad_scale=2.0, maximize=True, max_norm=max_norm)
        adam_step(*want, lr=0.1, step=2)
        if max_norm is None:
            assert found is None
        else:
            assert_close(np.array(found), 0.5 * norm, depth=64, dtype=dtype, scale=norm)
        for which in (0, 2, 3):
            for a, b in zip(got[which], want[which]):
                assert_close(a, b, depth=100)
        for a, b in zip(got[1], slots[1]):
            assert a.tobytes() == b.tobytes()


def test_norms(level, rng, dtype):
    for size in SIZES:
        arrays = [rng.normal(size=size).astype(dtype), rng.normal(size=(3, 7)).astype(dtype).T]
        flat = np.concatenate([a.astype(np.float64).ravel() for a in arrays])
        for norm_type, order in ((1, 1), (2, 2), (np.inf, np.inf)):
            got = kernels.grad_norm(arrays, norm_type=norm_type)
            assert_close(np.array(got), np.linalg.norm(flat, order), depth=300, dtype=dtype)
    for bad in (np.nan, np.inf, -np.inf):
        arrays[0][4000] = bad
        for norm_type in (1, 2, np.inf):
            want = np.nan if np.isnan(bad) else np.inf
            np.testing.assert_equal(kernels.grad_norm(arrays, norm_type=norm_type), want)
    mixed = [np.full(3, 2.0, np.float32), np.full((2, 2), 1.0)]
    assert kernels.grad_norm(mixed) == 4.0
    assert kernels.clip_grad_norm(mixed, 2.0) == 4.0
    np.testing.assert_allclose(mixed[1], 0.5, rtol=1e-6)
    kernels.clip_grad_value(mixed, 0.75)
    assert (mixed[0] == 0.75).all()
    assert kernels.grad_norm([]) == 0.0


class TestBadInput:
    def good(self):
        return [[np.ones((2, 3), np.float32), np.ones(4, np.float32)] for _ in range(4)]

    def check(self, slots, error, match, kernel=adam_step, **options):
        """The call raises, and nothing at all has been written."""
        options = {"lr": 0.1, "step": 1, **options}
        before = [[np.array(a, copy=True) for a in s] if s else s for s in slots]
        with pytest.raises(error, match=match):
            kernel(*slots, **options)
        for slot, kept in zip(slots, before):
            for a, b in zip(slot or (), kept or ()):
                assert np.array_equal(np.asarray(a), b)

    def test_counts(self):
        s = self.good()
        s[2].pop()
        self.check(s, hl.ShapeError, r"adam_step: exp_avgs must hold as many arrays as params.*1")

    def test_shapes(self):
        s = self.good()
        s[1][1] = np.ones(5, np.float32)
        self.check(s, hl.ShapeError, r"grads\[1\] must have shape \(4,\), got \(5,\)")

    def test_dtypes(self):
        s = self.good()
        s[3][1] = np.ones(4)
        self.check(s, hl.DTypeError, r"params\[1\] and exp_avg_sqs\[1\] .* float32 and float64")
        s[3][1] = np.ones(4, np.int32)
        self.check(s, hl.DTypeError, r"exp_avg_sqs\[1\] must be float32 or float64")
        s[3][1] = 3.0
        with pytest.raises(hl.DTypeError, match=r"exp_avg_sqs\[1\] must be a numpy.ndarray"):
            adam_step(*s, lr=0.1, step=1)

    def test_read_only(self):
        s = self.good()
        s[0][1].flags.writeable = False
        self.check(s, hl.OutputError, r"params\[1\] is changed in place and must be writable")
        s = self.good()
        s[1][1].flags.writeable = False  # gradients are only read
        adam_step(*s, lr=0.1, step=1)

    def test_shared_memory(self):
        s = self.good()
        s[2][0] = s[1][0]
        self.check(s, hl.OutputError, r"exp_avgs\[0\].*overlap.*grads\[0\]|grads\[0\].*exp_avgs")
        s = self.good()
        s[0].append(s[0][0])
        for slot in s[1:]:
            slot.append(np.ones((2, 3), np.float32))
        self.check(s, hl.OutputError, r"params\[0\].*params\[2\]")

    def test_interleaved_views_are_no_overlap(self):
        s, both = self.good(), np.ones(8, np.float32)
        s[0][1], s[1][1] = both[::2], both[1::2]
        adam_step(*s, lr=0.1, step=1)
        assert (both[1::2] == 1).all()
        assert (both[::2] < 1).all()
        grad = np.ones(4, np.float32)  # one gradient for two parameters is fine
        p, q = np.ones(4, np.float32), np.ones(4, np.float32)
        sgd_step([p, q], [grad, grad], lr=0.5)
        assert (p == 0.5).all()
        assert (q == 0.5).all()

    def test_repeated_elements(self):
        s = self.good()
        s[0][1] = np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (4,), (0,))
        self.check(s, hl.OutputError, r"params\[1\].*an array that repeats elements")

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"lr": -0.1}, "adam_step: lr must be at least 0, got -0.1"),
            ({"lr": float("nan")}, "lr must be at least 0, got nan"),
            ({"step": 0}, "step must be a whole number that counts from 1, got 0"),
            ({"step": 1.5}, "step must be a whole number"),
            ({"betas": (1.0, 0.9)}, r"betas\[0\] must be in \[0, 1\), got 1"),
            ({"betas": (0.9, -1)}, r"betas\[1\] must be in \[0, 1\), got -1"),
            ({"eps": -1e-3}, "eps must be at least 0"),
            ({"weight_decay": -1}, "weight_decay must be at least 0, got -1"),
            ({"grad_scale": 0}, "grad_scale must be above 0, got 0"),
            ({"max_norm": -1}, "max_norm must be at least 0, got -1"),
        ],
    )
    def test_numbers(self, options, match):
        self.check(self.good(), ValueError, match, **options)

    def test_kinds_of_numbers(self):
        self.check(self.good(), hl.DTypeError, "lr must be a number or a 0-d array", lr="fast")
        self.check(self.good(), hl.ShapeError, "step must be .* got 1 axes", step=np.ones(1))

    def test_sgd(self):
        two = self.good()[:2]
        self.check(two, ValueError, "sgd_step: momentum .* needs momentum_buffers", sgd_step,
                   momentum=0.9)  # fmt: skip
        three = self.good()[:3]
        self.check(three, ValueError, "nesterov needs", sgd_step, nesterov=True)
        self.check(three, ValueError, "nesterov needs", sgd_step, nesterov=True, momentum=0.9,
                   dampening=0.1)  # fmt: skip
        self.check(three, ValueError, "momentum must be at least 0", sgd_step, momentum=-1)


class TestAgainstTorch:
    """20 steps beside PyTorch's own optimizers."""

    def run(self, rng, dtype, make, kernel_step):
        torch = pytest.importorskip("torch")
        start = [rng.normal(size=s).astype(dtype) for s in ((8, 9), (33,), (2, 3, 4))]
        ours = [a.copy() for a in start]
        theirs = [torch.nn.Parameter(torch.tensor(a)) for a in start]
        optimizer = make(torch, theirs)
        state = [[np.zeros_like(a) for a in start] for _ in range(2)]
        for step in range(1, 21):
            grads = [rng.normal(size=a.shape).astype(dtype) for a in start]
            for parameter, grad in zip(theirs, grads):
                parameter.grad = torch.tensor(grad)
            optimizer.step()
            kernel_step(ours, grads, state, step)
        bound = {np.float32: 1e-5, np.float64: 1e-12}[dtype]
        for a, b in zip(ours, theirs):
            b = b.detach().numpy()
            assert np.max(np.abs(a - b)) <= bound * max(1.0, np.max(np.abs(b)))

    @pytest.mark.parametrize("options", SGD_CASES)
    def test_sgd(self, rng, dtype, options):
        self.run(
            rng,
            dtype,
            lambda torch, p: torch.optim.SGD(p, lr=0.1, **options),
            lambda p, g, s, step: sgd_step(p, g, s[0], lr=0.1, step=step, **options),
        )

    @pytest.mark.parametrize(("kernel", "options"), ADAM_CASES)
    def test_adam(self, rng, dtype, kernel, options):
        name = {adam_step: "Adam", adamw_step: "AdamW"}[kernel]
        self.run(
            rng,
            dtype,
            lambda torch, p: getattr(torch.optim, name)(p, lr=0.01, **options),
            lambda p, g, s, step: kernel(p, g, *s, lr=0.01, step=step, **options),
        )
