"""The tape: gradients of every differentiable op, its rules, and its depth."""

from __future__ import annotations

import gc
import threading
import weakref
import zlib

import numpy as np
import pytest

import hotloop as hl
from hotloop.nn import functional as F
from reference import assert_gradient


@pytest.fixture
def rng(request):
    """The same data at every run: finite differences fail at kinks, which fresh data would hit."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


def check(function, *arrays, rng):
    """The gradient of each input by finite differences in float64."""
    tensors = [hl.from_numpy(a).requires_grad_() for a in arrays]
    out = function(*tensors)
    dy = rng.standard_normal(out.shape)
    out.backward(np.asarray(dy))
    for tensor in tensors:

        def forward():
            with hl.no_grad():
                return function(*tensors).data

        assert tensor.grad is not None
        assert tensor.grad.dtype == tensor.dtype
        assert_gradient(tensor.grad.data, forward, tensor.data, dy)


UNARY = {
    "neg": lambda a: -a,
    "abs": lambda a: a.abs(),
    "exp": hl.exp,
    "sin": hl.sin,
    "cos": hl.cos,
    "square": lambda a: a.square(),
    "pow2": lambda a: a**2,
    "pow3": lambda a: a**3,
    "rpow": lambda a: 2.0**a,
    "radd": lambda a: 1.0 + a,
    "rsub": lambda a: 1.0 - a,
    "scaled": lambda a: a * 3.0 / 2.0 - 1.0,
    "clamp": lambda a: a.clamp(-0.5, 0.7),
    "clamp_min": lambda a: a.clamp(min=0.1),
    "relu": F.relu,
    "leaky_relu": lambda a: F.leaky_relu(a, 0.1),
    "elu": lambda a: F.elu(a, 1.3),
    "gelu": F.gelu,
    "gelu_tanh": lambda a: F.gelu(a, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": hl.sigmoid,
    "tanh": hl.tanh,
    "softplus": lambda a: F.softplus(a, 1.5),
    "softplus_threshold": lambda a: F.softplus(a, 1.0, 0.3),
    "hardswish": F.hardswish,
    "softmax": lambda a: a.softmax(1),
    "softmax0": lambda a: a.softmax(0),
    "log_softmax": lambda a: a.log_softmax(-1),
    "sum": lambda a: a.sum(),
    "sum0": lambda a: a.sum(0),
    "sum_keep": lambda a: a.sum((0, 1), keepdim=True),
    "mean": lambda a: a.mean(),
    "mean1": lambda a: a.mean(dim=1),
    "max": lambda a: a.max(),
    "max1": lambda a: a.max(1).values,
    "min0": lambda a: a.min(0, keepdim=True)[0],
    "prod": lambda a: a.prod(),
    "norm": lambda a: a.norm(dim=1),
    "var": lambda a: a.var(0),
    "std": lambda a: a.std(),
    "reshape": lambda a: a.reshape(2, -1) * 2.0,
    "flatten": lambda a: a.flatten() * a.flatten(),
    "transpose": lambda a: a.transpose(0, 1) * 2.0,
    "permute": lambda a: a.permute(1, 0),
    "T": lambda a: a.T @ a,
    "unsqueeze": lambda a: a.unsqueeze(1).squeeze(1),
    "expand": lambda a: a.unsqueeze(0).expand(3, -1, -1),
    "flip": lambda a: hl.flip(a, 0) * a,
    "row": lambda a: a[1],
    "item": lambda a: a[1, 2],
    "slice": lambda a: a[1:, ::2],
    "mask": lambda a: a[a.detach() > 0],
    "fancy": lambda a: a[[0, 0, 1], [1, 1, 2]],
    "tensor_index": lambda a: a[hl.tensor([3, 0, 0])],
    "new_axis": lambda a: a[None, ..., 0],
    "split": lambda a: a.split(3)[1] * a.chunk(2)[0][:1],
    "clone": lambda a: a.clone(),
    "cast": lambda a: a.to(np.float64) * 1.0,
    "reused": lambda a: a * a + a - a.sum() * a,
}


@pytest.mark.parametrize("name", UNARY)
def test_gradient_of_one_operand(name, rng):
    check(UNARY[name], rng.standard_normal((4, 5)), rng=rng)


@pytest.mark.parametrize("name", ["log", "sqrt", "rsqrt", "reciprocal"])
def test_gradient_on_positive_numbers(name, rng):
    check(getattr(hl, name), rng.uniform(0.5, 2.0, (3, 4)), rng=rng)


BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "maximum": hl.maximum,
    "minimum": hl.minimum,
    "where": lambda a, b: hl.where((a + b).detach() > 2.0, a, b),
}
SHAPES = [((3, 4), (3, 4)), ((3, 4), (4,)), ((1, 4), (3, 1)), ((2, 1, 3), (4, 1)), ((), (2,))]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_gradient_of_two_operands_summed_over_broadcast_axes(name, shapes, rng):
    check(BINARY[name], *(rng.uniform(0.5, 2.0, shape) for shape in shapes), rng=rng)


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 4), (4, 5)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((4,), (4,)),
        ((2, 3, 4), (2, 4, 2)),
        ((2, 3, 4), (4, 2)),
        ((3, 4), (2, 4, 2)),
        ((2, 1, 3, 4), (5, 4, 2)),
    ],
    ids=str,
)
def test_gradient_of_matmul(shapes, rng):
    check(hl.matmul, *(rng.standard_normal(shape) for shape in shapes), rng=rng)


def test_gradient_of_joins(rng):
    a, b = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    check(lambda a, b: hl.cat([a, b, a], dim=1), a, b, rng=rng)
    check(lambda a, b: hl.stack([a, b], dim=1), a, b, rng=rng)


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (4,)], ids=str)
def test_gradient_of_linear(shape, rng):
    x, w, b = (rng.standard_normal(s) for s in (shape, (3, 4), (3,)))
    check(F.linear, x, w, b, rng=rng)
    check(F.linear, x, w, rng=rng)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"groups": 2}], ids=str)
def test_gradient_of_conv2d(options, rng):
    x, b = rng.standard_normal((2, 4, 5, 6)), rng.standard_normal(2)
    w = rng.standard_normal((2, 4 // options.get("groups", 1), 3, 2))
    check(lambda x, w, b: F.conv2d(x, w, b, **options), x, w, b, rng=rng)
    check(lambda x, w: F.conv2d(x, w, **options), x, w, rng=rng)


def test_gradient_of_pooling(rng):
    x = rng.standard_normal((2, 3, 6, 5))
    check(lambda x: F.max_pool2d(x, 2), x, rng=rng)
    check(lambda x: F.max_pool2d(x, 3, 2, 1), x, rng=rng)
    check(lambda x: F.avg_pool2d(x, (2, 3), padding=1), x, rng=rng)
    check(lambda x: F.avg_pool2d(x, 2, padding=1, count_include_pad=False), x, rng=rng)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradient_of_losses(reduction, rng):
    x, y = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    labels = hl.tensor([2, 0, 1, 1])
    check(lambda x, y: F.mse_loss(x, y, reduction=reduction) * 3.0, x, y, rng=rng)
    check(lambda x: F.cross_entropy(x, labels, reduction=reduction), x, rng=rng)
    check(lambda x: F.cross_entropy(x, labels, reduction=reduction) * 0.5, x, rng=rng)
    weight = hl.from_numpy(rng.uniform(0.5, 2.0, 3))
    for options in ({"weight": weight}, {"label_smoothing": 0.1}, {"ignore_index": 1}):
        check(
            lambda x, options=options: F.cross_entropy(x, labels, reduction=reduction, **options),
            x,
            rng=rng,
        )


def test_gradient_of_dropout(rng):
    x = rng.standard_normal((4, 5))
    state = hl.get_rng_state()

    def drop(x):
        hl.set_rng_state(state)
        return F.dropout(x, 0.4)

    check(drop, x, rng=rng)


def test_gradient_of_float32_through_float64():
    x = hl.ones(3, requires_grad=True)
    (x.double() * 2.0).sum().backward()
    assert x.grad.dtype == np.float32
    assert x.grad.tolist() == [2.0, 2.0, 2.0]


# ---- the rules -------------------------------------------------------------------------------


def test_gradients_accumulate_until_set_to_none():
    x = hl.tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    assert x.grad is first
    assert x.grad.tolist() == [4.0, 8.0]
    x.grad = None
    x.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_leaves_never_share_a_gradient():
    a = hl.ones(3, requires_grad=True)
    b = hl.ones(3, requires_grad=True)
    seed = np.ones(3, np.float32)
    (a + b).backward(seed)
    assert not np.shares_memory(a.grad.data, b.grad.data)
    assert not np.shares_memory(a.grad.data, seed)
    loss = F.mse_loss(a, hl.zeros(3))
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)
    loss.backward()
    np.testing.assert_allclose(a.grad.data, 1.0 + 3 * 2.0 / 3, rtol=1e-6)


def test_second_backward_says_what_to_do():
    x = hl.ones(2, requires_grad=True)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()
    assert x.grad.tolist() == [2.0, 2.0]


def test_backward_frees_what_was_saved():
    x = hl.ones(1000, requires_grad=True)
    y = x * 2.0
    kept = y * y
    gone = weakref.ref(y)
    total = kept.sum()
    del y
    assert gone() is None  # only its array is saved, not the tensor
    array = weakref.ref(kept.grad_fn.saved[0])
    total.backward()
    gc.collect()
    assert array() is None
    assert kept.grad_fn.inputs is None


def test_no_grad_records_nothing():
    x = hl.ones(2, requires_grad=True)
    with hl.no_grad():
        assert not hl.is_grad_enabled()
        y = x * 2.0
        with hl.enable_grad():
            assert (x * 2.0).requires_grad
        assert not hl.is_grad_enabled()
    assert not y.requires_grad
    assert y.is_leaf
    assert hl.is_grad_enabled()

    @hl.no_grad()
    def inside(a):
        """Doc."""
        return a * 2.0

    assert inside.__doc__ == "Doc."
    assert not inside(x).requires_grad
    with pytest.raises(ZeroDivisionError), hl.no_grad():
        raise ZeroDivisionError
    assert hl.is_grad_enabled()
    with hl.set_grad_enabled(False):
        assert not (x * 2.0).requires_grad
    with pytest.raises(TypeError, match="generator"):

        @hl.no_grad()
        def generator():
            yield 1


def test_no_grad_is_of_one_thread():
    seen = []
    with hl.no_grad():
        thread = threading.Thread(target=lambda: seen.append(hl.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_detach_shares_memory_without_a_gradient():
    x = hl.ones(2, requires_grad=True)
    y = x.detach()
    assert not y.requires_grad
    assert np.shares_memory(x.data, y.data)
    (x * y).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_what_needs_no_gradient_gets_none():
    x, y = hl.ones(2, requires_grad=True), hl.ones(2)
    (x * y).sum().backward()
    assert y.grad is None
    assert (x * y).grad is None


def test_backward_asks_for_a_number_or_a_gradient():
    x = hl.ones((2, 3), requires_grad=True)
    with pytest.raises(hl.ShapeError, match=r"got shape \(2, 3\).*mean"):
        (x * 2.0).backward()
    with pytest.raises(hl.ShapeError, match=r"\(2, 3\), got \(3,\)"):
        (x * 2.0).backward(hl.ones(3))
    with pytest.raises(hl.DTypeError, match="float32, got float64"):
        (x * 2.0).backward(np.ones((2, 3)))
    with pytest.raises(RuntimeError, match="requires_grad"):
        hl.ones(1).backward()
    x.backward(hl.ones((2, 3)))
    assert x.grad.tolist() == [[1.0] * 3] * 2


def test_a_change_in_place_after_use_is_noticed():
    x = hl.ones(3, requires_grad=True)
    for change in (
        lambda y: y.add_(1.0),
        lambda y: y.__setitem__(0, 5.0),
        lambda y: y[1:].zero_(),
        lambda y: y.detach().mul_(2.0),
        lambda y: y.view(3, 1).fill_(3.0),
    ):
        y = x * 2.0
        z = (y * y).sum()
        with hl.no_grad():
            change(y)
        with pytest.raises(RuntimeError, match="changed in place"):
            z.backward()
    y = x.exp()
    with hl.no_grad():
        y.add_(1.0)
    with pytest.raises(RuntimeError, match=r"exp.*changed in place"):
        y.sum().backward()
    y = x + 1.0  # saves no array
    with hl.no_grad():
        y.add_(1.0)
    y.sum().backward()


def test_a_change_before_use_is_fine():
    x = hl.ones(3, requires_grad=True)
    with hl.no_grad():
        x.mul_(3.0)
    (x * x).sum().backward()
    assert x.grad.tolist() == [6.0, 6.0, 6.0]


def test_a_deep_chain_needs_no_stack():
    depth = 100_000
    x = hl.ones(1, requires_grad=True)
    y = x
    for _ in range(depth):
        y = y + x
    y.sum().backward()
    assert x.grad.item() == depth + 1
    del y
    y = x
    for _ in range(depth):
        y = y * 1.0
    del y  # never walked: deleting it must not recurse either
    gc.collect()


def test_a_wide_diamond_is_walked_once():
    x = hl.ones(1, requires_grad=True, dtype=np.float64)
    y = x
    for _ in range(60):  # 2**60 paths
        y = y * 0.5 + y * 0.5
    y.backward(np.ones(1))
    assert x.grad.item() == pytest.approx(1.0)


def test_threads_build_and_walk_graphs_of_their_own():
    errors = []

    def work(value):
        x = hl.full((50,), float(value), requires_grad=True)
        for _ in range(30):
            x.grad = None
            (x * x * 0.5).sum().backward()
            if not (x.grad.data == value).all():
                errors.append(value)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
