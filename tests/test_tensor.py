"""Tensor: making it, dtype rules, operators against NumPy, indexing, text, changes in place."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import hotloop as hl


def test_dtypes_of_what_is_made():
    assert hl.tensor([1.0, 2.0]).dtype == hl.float32
    assert hl.tensor(1.5).dtype == np.float32
    assert hl.tensor([1, 2]).dtype == hl.int64
    assert hl.tensor([True]).dtype == hl.bool
    assert hl.tensor(np.ones(2)).dtype == hl.float64
    assert hl.tensor([np.float64(1.0)]).dtype == hl.float64
    assert hl.tensor([1.0], dtype=hl.float64).dtype == hl.float64
    assert hl.tensor([hl.tensor(1.0), hl.tensor(2.0)]).tolist() == [1.0, 2.0]
    assert hl.zeros(2, 3).shape == hl.zeros((2, 3)).shape == (2, 3)
    assert hl.ones(2).dtype == np.float32
    assert hl.full((2,), 7).dtype == np.int64
    assert hl.full((2,), 7.0).dtype == np.float32
    assert hl.arange(3).tolist() == [0, 1, 2]
    assert hl.arange(0.0, 1.0, 0.5).dtype == np.float32
    assert hl.linspace(0, 1, 3).tolist() == [0.0, 0.5, 1.0]
    assert hl.eye(2).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    like = hl.zeros((2, 3), dtype=np.float64)
    for make in (hl.zeros_like, hl.ones_like, hl.empty_like, hl.rand_like, hl.randn_like):
        assert (make(like).shape, make(like).dtype) == ((2, 3), np.float64)
    assert hl.full_like(like, 2.0).sum().item() == 12.0


def test_tensor_copies_and_from_numpy_shares():
    array = np.ones(3, np.float32)
    copied, shared = hl.tensor(array), hl.from_numpy(array)
    array[0] = 5.0
    assert copied[0].item() == 1.0
    assert shared[0].item() == 5.0
    assert hl.as_tensor(shared) is shared
    assert hl.Tensor(array).data is array


def test_wrong_elements_are_refused():
    with pytest.raises(hl.DTypeError, match="native byte order"):
        hl.from_numpy(np.ones(2, ">f4"))
    with pytest.raises(hl.DTypeError):
        hl.tensor(["a"])
    with pytest.raises(hl.DTypeError):
        hl.tensor(np.ones(2, complex))
    with pytest.raises(TypeError, match="ndarray"):
        hl.from_numpy([1.0])
    with pytest.raises(hl.ShapeError, match="negative"):
        hl.zeros(-1)
    for make in (hl.zeros, hl.ones, hl.empty, hl.rand, hl.nn.Linear):
        with pytest.raises(hl.ShapeError):
            make(10**12, 10**12)
    with pytest.raises(hl.ShapeError, match="equal lengths"):
        hl.tensor([[1.0], [2.0, 3.0]])
    with pytest.raises(TypeError, match="ints"):
        hl.zeros(2.5)
    with pytest.raises(hl.DTypeError, match="dtype"):
        hl.zeros(2, dtype="nonsense")
    with pytest.raises(hl.DTypeError, match="float"):
        hl.tensor([1, 2], requires_grad=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64], ids=["f32", "f64", "i64"])
def test_operators_are_those_of_numpy(dtype, rng):
    a = rng.integers(1, 9, (3, 4)).astype(dtype)
    b = rng.integers(1, 9, (4,)).astype(dtype)
    x, y = hl.from_numpy(a), hl.from_numpy(b)
    for got, expected in (
        (x + y, a + b),
        (x - y, a - b),
        (x * y, a * b),
        (x**2, a**2),
        (-x, -a),
        (abs(-x), a),
        (x + 1, a + 1),
        (2 - x, 2 - a),
        (3 * x, 3 * a),
        (x @ x.T, a @ a.T),
        (x.sum(), a.sum()),
        (x.sum(0), a.sum(0)),
        (x.sum((0, 1), keepdim=True), a.sum(keepdims=True)),
        (x.max(), a.max()),
        (x.min(), a.min()),
        (x.prod(), a.prod()),
        (hl.maximum(x, y), np.maximum(a, b)),
        (hl.minimum(x, y), np.minimum(a, b)),
        (x.clamp(2, 5), a.clip(2, 5)),
        (hl.where(x > y, x, y), np.where(a > b, a, b)),
        (x.sign(), np.sign(a)),
    ):
        assert got.dtype == dtype
        np.testing.assert_allclose(got.data, expected, rtol=1e-6)
        assert type(got.data) is np.ndarray
    quotient = x / y
    assert quotient.dtype == (np.float32 if dtype == np.int64 else dtype)
    np.testing.assert_allclose(quotient.data, a / b, rtol=1e-6)
    for got, expected in (
        (x == y, a == b),
        (x != 3, a != 3),
        (x < y, a < b),
        (x <= 4, a <= 4),
        (x > y, a > b),
        ((x > 2) & (x < 5), (a > 2) & (a < 5)),
        ((x > 5) | (x < 2), (a > 5) | (a < 2)),
        (~(x > 5), a <= 5),
        (x.isnan(), np.zeros((3, 4), bool)),
    ):
        assert got.dtype == np.bool_
        np.testing.assert_array_equal(got.data, expected)


def test_numbers_take_the_dtype_of_the_tensor():
    x = hl.ones(2)
    for other in (2, 2.5, True, np.float64(2.0), np.int64(3)):
        assert (x * other).dtype == (other + x).dtype == np.float32
    assert (hl.arange(3) + 1).dtype == np.int64
    assert (hl.arange(3) / 2).dtype == (1.5 / hl.arange(1, 3)).dtype == np.float32
    with pytest.raises(hl.DTypeError, match="float"):
        hl.arange(3) * 1.5
    with pytest.raises(hl.DTypeError):
        hl.tensor([1], dtype=np.uint8) + 300
    with pytest.raises(hl.DTypeError, match="does not fit"):
        x * 10**400
    assert (x / 0).tolist() == [np.inf, np.inf]
    assert (1 / (x * 0.0)).tolist() == [np.inf, np.inf]


def test_different_dtypes_raise():
    x, y = hl.ones(2), hl.ones(2, dtype=np.float64)
    for op in (hl.add, hl.sub, hl.mul, hl.div, hl.maximum, hl.matmul, hl.pow, hl.eq):
        with pytest.raises(hl.DTypeError, match="float32 and float64"):
            op(x, y)
    with pytest.raises(hl.DTypeError):
        x + hl.arange(2)
    with pytest.raises(hl.DTypeError, match="float32"):
        x + np.ones(2)
    with pytest.raises(hl.DTypeError):
        hl.cat([x, y])
    with pytest.raises(hl.DTypeError):
        hl.where(x, x, x)
    with pytest.raises(TypeError, match="str"):
        x + "a"


def test_shapes_that_do_not_fit_raise():
    x = hl.ones((2, 3))
    for wrong, words in (
        (lambda: x + hl.ones(2), r"\(2, 3\).*\(2,\)"),
        (lambda: hl.arange(3) + hl.arange(2), r"\(3,\) and \(2,\)"),
        (lambda: x @ x, r"\(2, 3\) and \(2, 3\).*transpose"),
        (lambda: x.reshape(4, 2), r"6 elements.*\(4, 2\)"),
        (lambda: x.sum(2), r"dim must be in \[-2, 1\].*got 2"),
        (lambda: x.softmax(5), "dim"),
        (lambda: x.permute(0, 0), "once"),
        (lambda: x.transpose(0, 3), "dim"),
        (lambda: x.expand(3, 3), "expand"),
        (lambda: hl.cat([x, hl.ones((2, 2))]), "cat"),
        (lambda: hl.stack([x, hl.ones((2, 2))]), "stack"),
        (lambda: hl.cat([]), "none"),
        (lambda: x.item(), "one element"),
        (lambda: bool(x), "any"),
        (lambda: hl.ones(0).max(), "at least one"),
        (lambda: x.split([1, 5]), "add up"),
    ):
        with pytest.raises(hl.ShapeError, match=words):
            wrong()


def test_an_ndarray_on_the_left_gives_a_tensor():
    array = np.arange(3, dtype=np.float32)
    for got in (array + hl.ones(3), array * hl.ones(3), array - hl.ones(3), array / hl.ones(3)):
        assert isinstance(got, hl.Tensor)
    assert isinstance(array @ hl.ones((3, 2)), hl.Tensor)
    assert isinstance(array == hl.ones(3), hl.Tensor)


def test_out_of_a_tensor():
    x = hl.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert np.asarray(x) is x.data
    assert np.array(x, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.exp(x), np.exp(x.data))
    assert x.numpy() is x.data
    assert [row.tolist() for row in x] == x.tolist()
    assert (len(x), x.ndim, x.dim(), x.numel(), x.size(), x.size(-1)) == (2, 2, 2, 4, (2, 2), 2)
    assert float(x[0, 1]) == 2.0
    assert int(hl.tensor(3)) == 3
    assert [10, 20, 30][hl.tensor(1)] == 20
    assert f"{x[0, 1]:.3f}" == "2.000"
    assert bool(hl.tensor(1.0))
    with pytest.raises(RuntimeError, match="detach"):
        hl.ones(2, requires_grad=True).numpy()
    with pytest.raises(TypeError, match="number"):
        len(hl.tensor(1.0))
    with pytest.raises(TypeError, match="integer"):
        [1, 2][hl.tensor(1.0)]


def test_indexing_is_that_of_numpy(rng):
    a = rng.standard_normal((4, 5, 6))
    x = hl.from_numpy(a)
    for index in (
        0,
        -1,
        (1, 2),
        (1, 2, 3),
        slice(None, None, -1),
        (..., 2),
        (None, 1),
        [0, 2],
        ([0, 1], slice(None), [1, 1]),
        a > 0,
        np.array([True, False, True, True]),
    ):
        got = x[index]
        assert isinstance(got.data, np.ndarray)
        np.testing.assert_array_equal(got.data, a[index])
    assert np.shares_memory(x[1, 2, 3].data, a)
    np.testing.assert_array_equal(x[x > 0].data, a[a > 0])
    np.testing.assert_array_equal(x[hl.tensor([1, 0])].data, a[[1, 0]])
    with pytest.raises(IndexError):
        x[9]


def test_reductions_with_indices():
    x = hl.tensor([[1.0, 5.0, 2.0], [7.0, 0.0, 7.0]])
    values, indices = x.max(1)
    assert values.tolist() == [5.0, 7.0]
    assert indices.tolist() == [1, 0]
    assert x.max(dim=0, keepdim=True).values.shape == (1, 3)
    assert x.min(dim=0).indices.tolist() == [0, 1, 0]
    assert x.argmax().item() == 3
    assert x.argmax(1).tolist() == [1, 0]
    assert x.argmin(dim=1, keepdim=True).tolist() == [[0], [1]]
    assert x.argmax(1).dtype == np.int64
    assert (x > 3).sum().item() == 3
    assert (x > 3).any().item()
    assert (x > 3).all(1).tolist() == [False, False]
    assert hl.tensor(3.0).max(0).values.item() == 3.0


def test_views_share_memory():
    x = hl.zeros((2, 3, 4))
    for view in (
        x.view(6, 4),
        x.reshape(-1),
        x.flatten(1),
        x.transpose(0, 2),
        x.permute(2, 0, 1),
        x.movedim(0, 2),
        x.unsqueeze(0),
        x[:, 1:2].squeeze(1),
        x.expand(2, 3, 4),
        x.split(1)[1],
        x.T,
        x.mT,
    ):
        assert np.shares_memory(view.data, x.data)
    assert x.flatten(1).shape == (2, 12)
    assert x.movedim(0, 2).shape == (3, 4, 2)
    assert x.mT.shape == (2, 4, 3)
    assert x.unflatten(2, (2, 2)).shape == (2, 3, 2, 2)
    assert [part.shape for part in x.chunk(2, 1)] == [(2, 2, 4), (2, 1, 4)]
    assert x.contiguous() is x
    assert x.T.contiguous().is_contiguous()


def test_changes_in_place():
    x = hl.tensor([1.0, 2.0, 3.0])
    alias = x
    x += 1
    x *= 2.0
    x -= hl.ones(3)
    x /= 2.0
    assert alias is x
    assert x.tolist() == [1.5, 2.5, 3.5]
    assert x.add_(hl.ones(3), alpha=0.5).tolist() == [2.0, 3.0, 4.0]
    assert x.clamp_(2.5, 3.5).tolist() == [2.5, 3.0, 3.5]
    assert x.copy_(np.array([1, 2, 3])).tolist() == [1.0, 2.0, 3.0]
    x[1:] = 0.0
    x[0] = hl.tensor(9.0)
    assert x.tolist() == [9.0, 0.0, 0.0]
    assert x.fill_(2).zero_().tolist() == [0.0, 0.0, 0.0]
    assert x.neg_().neg_().tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(hl.ShapeError, match=r"\(3,\), got \(4,\)"):
        x.add_(hl.ones(4))
    with pytest.raises(hl.DTypeError):
        x.add_(hl.ones(3, dtype=np.float64))
    with pytest.raises(hl.DTypeError):
        x[0] = hl.tensor(1)
    with pytest.raises(hl.ShapeError, match="broadcast"):
        x[:2] = hl.ones(3)
    with pytest.raises(RuntimeError, match="read-only"):
        x.expand(2, 3).zero_()


def test_changes_in_place_stay_off_the_tape():
    w = hl.ones(2, requires_grad=True)
    for change in (
        lambda: w.add_(1.0),
        lambda: w.__iadd__(1.0),
        lambda: w.__setitem__(0, 1.0),
        lambda: hl.ones(2).add_(w),
        lambda: w.zero_(),
    ):
        with pytest.raises(RuntimeError, match="no_grad"):
            change()
    with hl.no_grad():
        alias = w
        w -= 0.5
    assert alias is w
    assert w.tolist() == [0.5, 0.5]
    total = hl.zeros(2)
    total += w * 2.0  # a new tensor under the name
    total.sum().backward()
    assert w.grad.tolist() == [2.0, 2.0]


def test_conversions():
    x = hl.tensor([0.0, 1.5])
    assert x.to(np.float64).dtype == x.double().dtype == np.float64
    assert x.to("float64").dtype == np.float64
    assert x.to(dtype=hl.int64).tolist() == [0, 1]
    assert x.long().dtype == np.int64
    assert x.int().dtype == np.int32
    assert x.bool().tolist() == [False, True]
    assert x.float() is x
    assert x.to("cpu") is x
    assert x.cpu() is x
    assert x.to(x) is x
    assert x.to(x, copy=True) is not x
    assert x.type_as(x.double()).dtype == np.float64
    assert str(x.device) == "cpu"
    assert x.device == hl.device("cpu")
    if not hl.cuda.is_available():
        for call in (lambda: x.cuda(), lambda: x.to("cuda:1"), lambda: hl.device("cuda")):
            with pytest.raises(hl.DeviceError, match=r"cuda.*CUDA"):
                call()
    with pytest.raises(ValueError, match="cpu"):
        hl.device("tpu")


def test_text():
    assert repr(hl.tensor([1.0, 2.0])) == "tensor([1., 2.])"
    assert repr(hl.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(hl.tensor(True)) == "tensor(True)"
    assert "requires_grad=True" in repr(hl.ones(1, requires_grad=True))
    assert "grad_fn=<mul>" in repr(hl.ones(1, requires_grad=True) * hl.ones(1))
    assert "dtype=float64" in repr(hl.ones(1, dtype=np.float64))
    assert "shape" not in repr(hl.zeros(0))


def test_copies_by_the_standard_library():
    x = hl.ones(3, requires_grad=True)
    x.sum().backward()
    y = copy.deepcopy(x)
    assert y.requires_grad
    assert y.grad.tolist() == x.grad.tolist()
    assert not np.shares_memory(x.data, y.data)
    assert not np.shares_memory(x.grad.data, y.grad.data)
    with pytest.raises(RuntimeError, match="detach"):
        copy.deepcopy(x * 2.0)


def test_equality_is_by_element_and_hash_by_identity():
    x, y = hl.ones(2), hl.ones(2)
    assert (x == y).all()
    assert len({x, y, x}) == 2


def test_grad_and_data_are_checked():
    x = hl.ones((2, 2), requires_grad=True)
    with pytest.raises(hl.ShapeError, match="grad"):
        x.grad = hl.ones(3)
    with pytest.raises(TypeError, match="Tensor"):
        x.grad = 1.0
    with pytest.raises(hl.DTypeError, match="float"):
        x.data = np.ones((2, 2), np.int64)
    x.data = np.zeros((2, 2), np.float32)
    assert x.sum().item() == 0.0
    with pytest.raises(RuntimeError, match="detach"):
        (x * 2.0).requires_grad_(False)


def test_extremes_are_silent():
    with np.errstate(all="raise"):
        x = hl.tensor([0.0, -1.0, np.inf, np.nan])
        for function in (hl.log, hl.sqrt, hl.exp, hl.sin, hl.reciprocal):
            function(x)
        (x / 0.0), (x**-1.0), (x * np.inf)


def test_random_tensors():
    hl.seed(3)
    state = hl.get_rng_state()
    first = [hl.rand(5), hl.randn(5), hl.randint(0, 10, (5,)), hl.randperm(5)]
    hl.set_rng_state(state)
    again = [hl.rand(5), hl.randn(5), hl.randint(0, 10, (5,)), hl.randperm(5)]
    for one, two in zip(first, again):
        assert one.tolist() == two.tolist()
    assert hl.rand(3).tolist() != hl.rand(3).tolist()
    hl.seed(3)
    assert hl.rand(5).tolist() == first[0].tolist()
    assert sorted(hl.randperm(20).tolist()) == list(range(20))
    draws = hl.randint(3, 7, (1000,))
    assert draws.dtype == np.int64
    assert set(draws.tolist()) == {3, 4, 5, 6}
    with pytest.raises(ValueError, match="high - low"):
        hl.randint(3, 3, (1,))
    with pytest.raises(hl.DTypeError):
        hl.rand(3, dtype=np.int64)


def test_nothing_equals_none():
    x = hl.ones(2)
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert None not in [x]


def test_random_tensors_take_a_device():
    hl.seed(3)
    placed = [hl.rand(2, device="cpu"), hl.randn(2, device="cpu"), hl.randint(5, size=(2,))]
    hl.seed(3)
    for a, b in zip(placed, [hl.rand(2), hl.randn(2), hl.randint(5, size=(2,), device="cpu")]):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert sorted(hl.randperm(4, device="cpu").tolist()) == [0, 1, 2, 3]


@pytest.mark.skipif(hl.cuda.is_available(), reason="CUDA is here")
def test_memory_of_no_device_is_nothing():
    assert hl.cuda.memory_allocated() == hl.cuda.memory_cached() == 0
    hl.cuda.empty_cache()


def test_masks_are_not_lost():
    masked = np.ma.array([1.0, 2.0], mask=[False, True])
    for make in (hl.from_numpy, hl.tensor, hl.as_tensor):
        with pytest.raises(hl.DTypeError, match=r"must have no mask.*filled"):
            make(masked)


def test_the_package_shows_what_is_public():
    shown = set(dir(hl))
    assert {"tensor", "nn", "optim", "train", "kernels", "random", "load", "softmax"} <= shown
    assert not shown & {"annotations", "Any", "creation", "arithmetic", "ops"}
