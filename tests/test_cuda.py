"""Device "cuda", emulated on the CPU: arrays, memory, copies, element-wise kernels, errors."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import cuda_library
import hotloop as hl
from cuda_library import get, put
from hotloop import _core
from hotloop.device_array import DeviceArray

SIZES = [(), (0,), (1,), (3,), (4,), (1023,), (5, 7), (2, 3, 4), (33, 16)]

pytestmark = pytest.mark.usefixtures("cuda")


# ---- the device ---------------------------------------------------------------------------------


def test_the_device_is_there():
    assert hl.cuda.is_available()
    assert hl.cuda.unavailable_reason() == ""
    assert hl.cuda.device_count() >= 1
    assert hl.cuda.get_device_name()
    hl.cuda.synchronize()
    assert str(hl.device("cuda")) == "cuda:0"
    assert hl.device("cuda") == hl.device("cuda:0")
    assert hl.device("cuda") != hl.device("cpu")
    assert repr(hl.device("cuda")) == "device(type='cuda', index=0)"


def test_a_device_that_is_not_there():
    count = hl.cuda.device_count()
    with pytest.raises(hl.DeviceError, match=rf'must be below {count}.*"cuda:{count}"'):
        hl.device(f"cuda:{count}")
    with pytest.raises(hl.DeviceError, match="below"):
        _core.cuda_empty((2,), np.dtype("f4"), count)
    with pytest.raises(hl.DeviceError, match="below"):
        hl.cuda.synchronize(count)
    assert hl.ones(2).cuda().tolist() == [1, 1]  # usable afterwards


def test_memory_comes_back():
    gc.collect()
    hl.cuda.empty_cache()
    before = hl.cuda.memory_allocated()
    x = hl.ones(1 << 20).cuda()
    y = x.reshape(1024, 1024)[3:5]
    assert hl.cuda.memory_allocated() - before == 4 << 20
    del x
    assert hl.cuda.memory_allocated() - before == 4 << 20  # y holds it
    del y
    assert hl.cuda.memory_allocated() == before
    assert hl.cuda.memory_cached() >= 4 << 20
    hits = _core.cuda_info(0)["cache_hits"]
    z = hl.ones(1 << 20).cuda()
    assert _core.cuda_info(0)["cache_hits"] == hits + 1
    del z
    hl.cuda.empty_cache()
    assert hl.cuda.memory_cached() == 0


def test_out_of_memory():
    total = _core.cuda_info(0)["total_bytes"]
    with pytest.raises(MemoryError, match=r"empty: no memory on cuda:0 for \d+ MiB.*empty_cache"):
        _core.cuda_empty((total,), np.dtype("f4"), 0)
    assert hl.ones(3).cuda().tolist() == [1, 1, 1]


@pytest.mark.skipif(cuda_library.ON_DEVICE, reason="fills the device's memory")
def test_the_cache_makes_room():
    half = _core.cuda_info(0)["total_bytes"] // 8 * 5 // 4
    kept = _core.cuda_empty((half,), np.dtype("f4"), 0)
    del kept
    assert hl.cuda.memory_cached() >= half
    other = _core.cuda_empty((half + (1 << 20),), np.dtype("f4"), 0)
    assert other.size == half + (1 << 20)


# ---- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "u1", "?"])
def test_there_and_back(rng, shape, dtype):
    x = (rng.standard_normal(shape) * 50).astype(dtype)
    on_device = put(x)
    assert (on_device.shape, on_device.dtype, on_device.size) == (x.shape, x.dtype, x.size)
    np.testing.assert_array_equal(get(on_device), x)


def test_large_copies_pass_through_both_halves(rng):
    x = rng.standard_normal(3_500_001).astype("f4")  # 3.3 halves
    np.testing.assert_array_equal(get(put(x)), x)


def test_layouts_are_kept(rng):
    x = rng.standard_normal((2, 5, 4, 3)).astype("f4").transpose(0, 3, 1, 2)
    assert put(x).strides == x.strides
    np.testing.assert_array_equal(get(put(x)), x)
    for odd in (x[:, ::2], x[::-1], np.broadcast_to(x[:1], x.shape)):
        np.testing.assert_array_equal(get(put(odd)), odd)


def test_views(rng):
    x = rng.standard_normal((4, 6, 5)).astype("f4")
    d = put(x)
    for index in (1, -1, slice(1, 3), (slice(None), 2), (..., slice(None, None, -2)), (None, 1)):
        np.testing.assert_array_equal(get(d[index]), x[index])
        assert d[index].base is not None
    np.testing.assert_array_equal(get(d.T), x.T)
    np.testing.assert_array_equal(get(d.transpose(1, 0, 2)), x.transpose(1, 0, 2))
    np.testing.assert_array_equal(get(d.swapaxes(0, 2)), x.swapaxes(0, 2))
    np.testing.assert_array_equal(get(np.broadcast_to(d[:, :1], x.shape)), x[:, :1] + 0 * x)
    np.testing.assert_array_equal(get(np.flip(d, 1)), np.flip(x, 1))
    np.testing.assert_array_equal(get(np.concatenate([d, d[:, :2]], 1)),
                                  np.concatenate([x, x[:, :2]], 1))  # fmt: skip
    for a, b in zip(np.split(d, [2, 3], 1), np.split(x, [2, 3], 1)):
        np.testing.assert_array_equal(get(a), b)


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda x: x, (120,)),
        (lambda x: x, (2, 2, 30)),
        (lambda x: x.transpose(1, 0, 2), (24, 5)),
        (lambda x: x.transpose(2, 0, 1), (5, 24)),
        (lambda x: x.transpose(2, 0, 1), (5, 2, 2, 6)),
        (lambda x: x[:, ::2], (4, 3, 5)),
        (lambda x: x[:, :3], (4, 15)),
        (lambda x: x[:, :1], (20,)),
        (lambda x: x.transpose(0, 2, 1)[:, None], (2, 2, 5, 1, 6)),
        (lambda x: x[:, :, :1], (2, 12)),
    ],
)
def test_reshape(rng, change, shape):
    x = rng.standard_normal((4, 6, 5)).astype("f4")
    wanted = change(x).reshape(shape)
    np.testing.assert_array_equal(get(change(put(x)).reshape(shape)), wanted)
    np.testing.assert_array_equal(get(change(put(x)).reshape(*shape[:-1], -1)), wanted)


def test_conversions(rng):
    x = rng.standard_normal((5, 6)) * 3
    for source in ("f4", "f8", "i4", "i8", "?"):
        for target in ("f4", "f8", "i4", "i8", "?"):
            y = x.astype(source).T
            np.testing.assert_array_equal(get(put(y).astype(target)), y.astype(target))
    with pytest.raises(hl.DTypeError, match="uint8"):
        put(x).astype("u1")


def test_filling():
    for dtype in ("f4", "f8", "i4", "i8", "?"):
        np.testing.assert_array_equal(get(np.zeros_like(put(np.ones((3, 4), dtype)))), 0)
        np.testing.assert_array_equal(get(np.ones_like(put(np.zeros((3, 4), dtype)))), 1)
    x = put(np.zeros((4, 5), "f4"))
    x[1:3, ::2] = 7
    x[0] = put(np.arange(5, dtype="f4"))
    expected = np.zeros((4, 5))
    expected[1:3, ::2] = 7
    expected[0] = np.arange(5)
    np.testing.assert_array_equal(get(x), expected)


def test_nothing_crosses_the_bus_unasked(rng):
    x = put(rng.standard_normal(4).astype("f4"))
    for call in (
        lambda: np.asarray(x),
        lambda: np.sum(x),
        lambda: np.add(x, 1),
        lambda: x[[0, 1]],
        lambda: x[np.array([True, False, True, False])],
        lambda: np.ones(4, "f4") * x,
    ):
        with pytest.raises(hl.DeviceError, match="cpu"):
            call()


# ---- element-wise kernels -----------------------------------------------------------------------

PARAMETERS = {"leaky_relu": (0.1,), "elu": (1.3,), "softplus": (1.5,)}


@pytest.mark.parametrize("name", [entry[0] for entry in _core.activations])
def test_activations_agree_with_the_cpu(rng, name, dtype):
    parameter = PARAMETERS.get(name, ())
    forward, backward = getattr(hl.kernels, name), getattr(hl.kernels, f"{name}_backward")
    far = [np.inf, -np.inf, np.nan, 0.0, -0.0, 80, -80, -700, 700, -13.5]
    for shape in ((1028,), (7, 13)):
        x = (rng.standard_normal(shape) * 4).astype(dtype)
        x.flat[: len(far)] = far
        tolerance = dict(rtol=4e-6 if dtype is np.float32 else 1e-13, atol=1e-35)
        with np.errstate(all="ignore"):
            y = forward(x, *parameter)
        np.testing.assert_allclose(get(forward(put(x), *parameter)), y, **tolerance)
        dy = rng.standard_normal(shape).astype(dtype)
        kept = y if dict((n, s) for n, _, s in _core.activations)[name] == "y" else x
        dx = backward(dy, kept, *parameter)
        tolerance["atol"] = 1e-6 if dtype is np.float32 else 1e-14
        np.testing.assert_allclose(get(backward(put(dy), put(kept), *parameter)), dx, **tolerance)


@pytest.mark.parametrize("name", _core.unary_functions)
def test_functions_agree_with_the_cpu(rng, name, dtype):
    function = getattr(hl.kernels, name)
    x = (rng.standard_normal((6, 24)) * 5).astype(dtype)
    x[0, :6] = [np.inf, -np.inf, np.nan, 0, -0.0, 1]
    x = np.abs(x) if name in ("log", "sqrt", "rsqrt", "log1p") else x
    tolerance = dict(rtol=1e-6 if dtype is np.float32 else 1e-14, atol=1e-7)
    for view in (x, x[:, ::3], x.T, x[:, 1:]):
        np.testing.assert_allclose(get(function(put(view))), function(view), **tolerance)
    on_device = put(x)
    np.testing.assert_allclose(get(function(on_device.T[::2])), function(x.T[::2]), **tolerance)
    assert function(on_device, out=on_device) is on_device
    np.testing.assert_allclose(get(on_device), function(x), **tolerance)


SHAPES = [
    ((64,), (64,)), ((5, 8), (8,)), ((5, 7), (7,)), ((4, 1, 8), (3, 1)), ((3, 4), ()),
    ((2, 3, 4, 5), (3, 1, 1)), ((0, 4), (4,)), ((6, 1), (1, 9)),
]  # fmt: skip


@pytest.mark.parametrize("name", [*_core.binary_functions, *_core.comparisons])
def test_two_operands_agree_with_the_cpu(rng, name, dtype):
    function = getattr(hl.kernels, name)
    for left, right in SHAPES:
        a = np.round(rng.standard_normal(left) * 2, 1).astype(dtype)
        b = np.round(rng.standard_normal(right) * 2, 1).astype(dtype)
        with np.errstate(all="ignore"):
            expected = function(a, b)
        got = get(function(put(a), put(b)))
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=2e-6 if dtype is np.float32 else 1e-13)
    a = rng.standard_normal((5, 12)).astype(dtype)
    for numbers in ((put(a), 1.5), (2, put(a))):
        plain = [get(each) if isinstance(each, DeviceArray) else each for each in numbers]
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(get(function(*numbers)), function(*plain), rtol=1e-5)


def test_where_and_clip(rng, dtype):
    a, b = (rng.standard_normal((6, 8)).astype(dtype) for _ in range(2))
    mask = a > b
    for first, second in ((a, b), (a, 0), (1.5, b[0])):
        expected = hl.kernels.where(mask, first, second)
        moved = [put(x) if isinstance(x, np.ndarray) else x for x in (first, second)]
        np.testing.assert_array_equal(get(hl.kernels.where(put(mask), *moved)), expected)
    np.testing.assert_array_equal(
        get(hl.kernels.clip(put(a), -0.5, 0.25)), hl.kernels.clip(a, -0.5, 0.25)
    )
    np.testing.assert_array_equal(
        get(hl.kernels.clip(put(a), put(b[0]), 1.0)), hl.kernels.clip(a, b[0], 1.0)
    )


def test_every_strides_of_out(rng):
    x = put(rng.standard_normal((6, 8)).astype("f4"))
    expected = hl.kernels.exp(get(x))
    for make in (lambda o: o[:, ::2], lambda o: o[:, 8:].T[:8].T, lambda o: o[::-1, :8]):
        whole = np.zeros_like(put(np.zeros((6, 16), "f4")))
        out = make(whole)
        assert hl.kernels.exp(x, out=out) is out
        np.testing.assert_allclose(get(out), expected, rtol=1e-6)


# ---- errors -------------------------------------------------------------------------------------


def test_mixed_devices_name_both():
    x = np.ones(4, "f4")
    with pytest.raises(hl.DeviceError, match=r"add: a and b must lie on one device, got cuda:0 and"
                                             r" cpu; .*\.to"):  # fmt: skip
        hl.kernels.add(put(x), x)
    with pytest.raises(hl.DeviceError, match=r"relu: x and out .* got cpu and cuda:0"):
        hl.kernels.relu(x, out=put(x))
    with pytest.raises(hl.DeviceError, match=r"relu: x and out .* got cuda:0 and cpu"):
        hl.kernels.relu(put(x), out=x)
    if hl.cuda.device_count() > 1:
        with pytest.raises(hl.DeviceError, match="got cuda:0 and cuda:1"):
            hl.kernels.mul(put(x), _core.cuda_array(x, 1))
    assert hl.kernels.relu(put(x)).tolist() == [1] * 4


def test_other_errors_are_those_of_the_cpu():
    x = put(np.ones((2, 3), "f4"))
    with pytest.raises(hl.ShapeError, match="broadcast"):
        hl.kernels.add(x, put(np.ones(2, "f4")))
    with pytest.raises(hl.DTypeError, match="same dtype"):
        hl.kernels.add(x, put(np.ones(3)))
    with pytest.raises(hl.DTypeError, match="float32"):
        hl.kernels.relu(put(np.ones(3, "i4")))
    with pytest.raises(hl.ShapeError, match="out"):
        hl.kernels.relu(x, out=put(np.ones(3, "f4")))
    with pytest.raises(hl.OutputError, match="overlap"):
        hl.kernels.relu(x[:, :2], out=x[:, 1:])
    with pytest.raises(hl.OutputError, match="writable"):
        hl.kernels.relu(x, out=np.broadcast_to(x[:1], (2, 3)))


def test_an_op_without_a_kernel_says_so():
    x = put(np.ones((4, 4), "f4"))
    with pytest.raises(hl.DeviceError, match=r'no CUDA kernel.*\.to\("cpu"\)'):
        hl.kernels.quantize(x, 0.1)


# ---- interchange --------------------------------------------------------------------------------


class Unversioned:
    """A producer of before DLPack 1.0."""

    def __init__(self, array: DeviceArray) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, stream: object = None) -> object:
        return self.array.__dlpack__(stream=stream)


@pytest.mark.parametrize("wrapped", [lambda a: a, Unversioned], ids=["versioned", "unversioned"])
def test_dlpack_shares_memory(rng, wrapped):
    x = rng.standard_normal((4, 6)).astype("f4")
    source = put(x)
    for view in (source, source.T, source[1:, ::2]):
        taken = _core.cuda_from_dlpack(wrapped(view))
        assert (taken.shape, taken.data_pointer) == (view.shape, view.data_pointer)
        np.testing.assert_array_equal(get(taken), get(view))
    before = hl.cuda.memory_allocated()
    taken = _core.cuda_from_dlpack(wrapped(source))
    del source, view
    taken.fill(3.0)
    np.testing.assert_array_equal(get(taken), 3)
    del taken
    gc.collect()
    assert hl.cuda.memory_allocated() < before


def test_dlpack_of_tensors(rng):
    x = hl.from_numpy(rng.standard_normal(5).astype("f4"))
    assert hl.from_dlpack(x).tolist() == x.tolist()
    assert hl.from_dlpack(x.cuda()).device == hl.device("cuda")
    assert x.cuda().__dlpack_device__() == (2, 0)
    assert x.__dlpack_device__() == (1, 0)
    capsule = x.cuda()._data.__dlpack__(max_version=(1, 0))
    assert "dltensor_versioned" in repr(capsule)
    del capsule  # nobody took it: its memory comes back


def test_dlpack_of_the_wrong_kind():
    with pytest.raises(hl.DTypeError, match="__dlpack__"):
        hl.from_dlpack(3)
    with pytest.raises(hl.DeviceError, match="type 1"):
        _core.cuda_from_dlpack(np.ones(3))
    with pytest.raises(ValueError, match="stream"):
        put(np.ones(3)).__dlpack__(stream=0)

    class Elsewhere(Unversioned):
        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 99)

    with pytest.raises(hl.DeviceError, match="below"):
        hl.from_dlpack(Elsewhere(put(np.ones(3))))


def test_cuda_array_interface():
    x = put(np.ones((3, 4), "f4"))
    about = x.__cuda_array_interface__
    assert (about["shape"], about["typestr"], about["version"]) == ((3, 4), "<f4", 3)
    assert about["data"] == (x.data_pointer, False)
    assert about["strides"] is None
    assert x.T.__cuda_array_interface__["strides"] == (4, 16)


# ---- tensors ------------------------------------------------------------------------------------


def test_tensors_move():
    x = hl.tensor([[1.0, 2.0], [3.0, 4.0]])
    y = x.to("cuda")
    assert y.is_cuda
    assert not x.is_cuda
    assert y.device == hl.device("cuda:0")
    assert y.to("cuda") is y
    assert x.cpu() is x
    assert y.cpu().numpy().tolist() == x.tolist()
    assert y.to("cuda", np.float64).dtype == np.float64
    assert y.to(x).device == hl.device("cpu")
    assert hl.tensor([1.0], device="cuda").is_cuda
    assert hl.zeros(3, device="cuda:0").tolist() == [0, 0, 0]
    assert hl.zeros_like(y).is_cuda
    assert y[1].tolist() == [3, 4]
    assert float(y[1, 0]) == 3
    assert "device='cuda:0'" in repr(y)
    assert len(y) == 2
    with pytest.raises(hl.DeviceError, match=r"\.cpu\(\)"):
        y.numpy()
    assert pickle.loads(pickle.dumps(y)).tolist() == x.tolist()
    assert copy.deepcopy(y).is_cuda
    if hl.cuda.device_count() > 1:
        assert y.to("cuda:1").to("cuda:0").tolist() == x.tolist()


def test_the_tape_keeps_the_device(rng):
    def run(device: str) -> tuple[list[float], list[np.ndarray]]:
        rng = np.random.default_rng(3)
        x, y = (hl.tensor(rng.standard_normal((4, 8)).astype("f4"), device=device) for _ in "xy")
        x.requires_grad_()
        y.requires_grad_()
        z = hl.relu(x * y + 1.5) / (2 - hl.tanh(x)) + x[1:2]
        z = hl.where(z > 0.5, z, z * z).reshape(8, 4).transpose(0, 1)
        assert z.device == x.device
        z.backward(hl.ones(4, 8, device=device) * 0.5)
        for tensor in (x, y):
            assert tensor.grad is not None
            assert tensor.grad.device == x.device
        return z.cpu().tolist(), [t.grad.cpu().numpy() for t in (x, y)]

    try:
        values, gradients = run("cuda")
    except hl.DeviceError as error:
        if "sum" in str(error):
            pytest.skip("reductions have no CUDA kernel yet")
        raise
    expected, wanted = run("cpu")
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    for got, want in zip(gradients, wanted):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_gradient_comes_back_over_the_bus():
    x = hl.ones(3, requires_grad=True)
    y = (x.to("cuda") * 2).to("cpu")
    y.backward(hl.tensor([1.0, 2.0, 3.0]))
    assert x.grad is not None
    assert x.grad.device == hl.device("cpu")
    assert x.grad.tolist() == [2, 4, 6]


def test_modules_move():
    net = hl.nn.Sequential(hl.nn.Linear(4, 3), hl.nn.BatchNorm1d(3))
    values = {name: tensor.tolist() for name, tensor in net.state_dict().items()}
    assert net.to("cuda") is net
    assert all(tensor.is_cuda for tensor in net.state_dict().values())
    assert {n: t.tolist() for n, t in net.state_dict().items()} == values
    net.load_state_dict({name: np.zeros(t.shape, t.dtype) for name, t in net.state_dict().items()})
    assert all(not np.any(t.tolist()) for t in net.state_dict().values())
    assert not any(tensor.is_cuda for tensor in net.cpu().state_dict().values())
    net.to("cuda", np.float64)
    assert {p.dtype for p in net.parameters()} == {np.dtype(np.float64)}


# ---- the installed package ----------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["", "EMULATE"])
def test_without_a_library_the_reason_is_kept(asked):
    """In a fresh process: nothing is emulated by itself, and a missing library is no error."""
    code = (
        "import os, hotloop as hl\n"
        "from hotloop import _core\n"
        "reason = hl.cuda.unavailable_reason()\n"
        "assert not _core.cuda_is_emulated() or os.environ['HOTLOOP_CUDA'], reason\n"
        "assert hl.cuda.is_available() is not bool(reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOTLOOP_CUDA": asked},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
