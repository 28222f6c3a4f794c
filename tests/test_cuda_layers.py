"""Products, convolutions, pooling, norms, embedding, random numbers on the emulated device."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from cuda_library import put
from hotloop.device_array import DeviceArray

k = hl.kernels

pytestmark = pytest.mark.usefixtures("cuda")


def same(function, *arrays, atol=2e-5, **settings):
    """Calls it on the CPU and on the device and compares what comes back."""
    want = function(*arrays, **settings)
    moved = [put(a) if isinstance(a, np.ndarray) else a for a in arrays]
    got = function(*moved, **settings)
    if not isinstance(want, tuple):
        want, got = (want,), (got,)
    for a, b in zip(want, got, strict=True):
        assert type(b) is DeviceArray
        assert b.dtype == a.dtype
        steps = [(x, y) for n, x, y in zip(a.shape, a.strides, b.strides) if n > 1]
        assert a.size == 0 or all(x == y for x, y in steps)
        np.testing.assert_allclose(b._to_host(), a, rtol=0, atol=atol)
    return got


@pytest.fixture
def normal(rng):
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("trans", [(False, False), (True, False), (False, True)])
def test_gemm(normal, trans):
    a, b = normal(4, 20, 20), normal(20, 20)
    same(k.gemm, a, b, trans_a=trans[0], trans_b=trans[1])
    same(k.gemm, a[:, :3], b[:, ::2], alpha=0.5)
    same(k.gemm, normal(2, 1, 5, 6), normal(3, 6, 4))


def test_gemm_into_out(normal):
    a, b, out = normal(9, 7), normal(7, 5), normal(5, 9).T
    want = k.gemm(a, b, beta=2.0, out=out.copy())
    on_device = put(out)
    k.gemm(put(a), put(b), beta=2.0, out=on_device)
    np.testing.assert_allclose(on_device._to_host(), want, atol=1e-5)


def test_linear(normal):
    x, w, b = normal(2, 6, 10), normal(8, 10), normal(8)
    same(lambda x, w, b: k.linear(x, w, b, activation="gelu"), x, w, b)
    same(k.linear, x[0, 0], w)
    same(k.linear_backward, normal(2, 6, 8), x, w)
    same(k.linear_backward, np.zeros((2, 0, 8), "f4"), np.zeros((2, 0, 10), "f4"), w)
    with pytest.raises(hl.DeviceError, match=r"linear: x and w must lie on one device"):
        k.linear(put(x), w)
    with pytest.raises(hl.DeviceError, match=r"linear: x and w must lie on one device"):
        k.linear(put(x), k.gemm_pack(w, trans_b=True))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_conv2d(normal, layout):
    first = layout == "NCHW"
    x = normal(2, 6, 9, 8) if first else normal(2, 9, 8, 6)
    w = normal(4, 3, 3, 2) if first else normal(3, 2, 3, 4)
    how = {"stride": 2, "padding": 1, "groups": 2, "layout": layout}
    (y,) = same(lambda x, w, b: k.conv2d(x, w, b, activation="relu", **how), x, w, normal(4))
    dy = normal(*y.shape)
    same(lambda dy, w: k.conv2d_backward_input(dy, w, x.shape, **how), dy, w)
    same(lambda dy, x: k.conv2d_backward_weight(dy, x, w.shape, **how), dy, x, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_residuals_of_convolutions(normal, groups, activation):
    x, w, b = normal(2, 8, 6, 7), normal(12, 8 // groups, 3, 3), normal(12)
    how = {"padding": 1, "groups": groups, "activation": activation}
    residual = normal(2, 12, 6, 7)
    last = np.ascontiguousarray(residual.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for r in (residual, last, normal(2, 12, 12, 7)[:, :, ::2], normal(1, 12, 1, 7)):
        r = np.broadcast_to(r, residual.shape)
        same(lambda x, w, b, r: k.conv2d(x, w, b, residual=r, **how), x, w, b, r)
    same(lambda x, w, r: k.conv1d(x, w, residual=r), normal(2, 3, 9), normal(5, 3, 3),
         normal(2, 5, 7))  # fmt: skip
    with pytest.raises(hl.DeviceError, match="x and residual must lie on one device"):
        k.conv2d(put(x), put(w), put(b), residual=residual, **how)
    with pytest.raises(hl.ShapeError, match="residual"):
        k.conv2d(put(x), put(w), put(b), residual=put(residual[:1]), **how)
    with pytest.raises(hl.OutputError, match="overlap"):
        k.conv2d(put(x), put(w), residual=(r := put(residual)), out=r, **how)


def test_other_convolutions(normal):
    same(lambda x, w: k.conv1d(x, w, padding=2), normal(2, 3, 20), normal(5, 3, 5))
    same(lambda x, w: k.conv3d(x, w, dilation=2), normal(1, 2, 6, 7, 8), normal(3, 2, 2, 3, 2))
    same(
        lambda x, w, b: k.conv_transpose2d(x, w, b, stride=2, activation="tanh"),
        *(normal(2, 4, 5, 6), normal(4, 3, 3, 3), normal(3)),
    )


def test_pooling(normal):
    x = normal(2, 5, 9, 8)
    how = {"kernel_size": 3, "stride": 2, "padding": 1}
    y, taps = same(lambda x: k.max_pool2d(x, return_indices=True, **how), x)
    dy = normal(*y.shape)
    want = k.max_pool2d_backward(dy, taps._to_host(), x.shape, **how)
    for moved in (taps, put(np.ascontiguousarray(taps._to_host()))):
        got = k.max_pool2d_backward(put(dy), moved, x.shape, **how)
        np.testing.assert_allclose(got._to_host(), want, atol=1e-6)
    same(lambda x: k.avg_pool2d(x, **how), x)
    same(lambda dy: k.avg_pool2d_backward(dy, x.shape, **how), dy)
    same(lambda x: k.adaptive_avg_pool2d(x, (4, 3)), x)
    same(
        lambda dy: k.adaptive_avg_pool2d_backward(dy, x.shape, output_size=(4, 3)),
        normal(2, 5, 4, 3),
    )
    with pytest.raises(hl.DeviceError, match="dy and indices must lie on one device"):
        k.max_pool2d_backward(put(dy), taps._to_host(), x.shape, **how)
    with pytest.raises(TypeError, match="indices must be the uint8 taps"):
        k.max_pool2d_backward(put(dy), put(dy), x.shape, **how)


def test_float64(rng):
    x, w = rng.standard_normal((2, 3, 6, 6)), rng.standard_normal((4, 3, 3, 3))
    same(k.conv2d, x, w, atol=1e-12)
    same(k.gemm, x, x[0, 0], atol=1e-12)
    same(lambda x: k.max_pool2d(x, 2), x)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("shape", [(3, 6, 4, 8), (5, 8, 4, 4), (40, 64)])
def test_norms_of_channels(normal, layout, shape):
    x, dy, residual = normal(*shape), normal(*shape), normal(*shape)
    c = shape[1 if layout == "NCHW" else -1]
    weight, bias = normal(c), normal(c)
    rest = {"layout": layout}

    def check(name, *extra, **settings):
        forward, back = getattr(k, name), getattr(k, f"{name}_backward")
        settings.update(rest)
        _, mean, rstd = same(
            lambda x, w, b, r: forward(
                x, *extra, w, b, residual=r, activation="relu", return_stats=True, **settings
            ),
            x, weight, bias, residual, atol=1e-4,
        )  # fmt: skip
        same(
            lambda dy, x, w, m, r: back(dy, x, *extra, w, m, r, **rest),
            dy, x, weight, mean._to_host(), rstd._to_host(), atol=2e-4,
        )  # fmt: skip

    check("batch_norm", training=True)
    check("group_norm", 2)
    if len(shape) == 4:
        check("instance_norm")
        same(lambda x: k.group_norm(x[:, ::2], 1, **rest), x[:, :, :2], atol=1e-4)


def test_running_statistics(normal):
    x, running = normal(7, 5, 6), [normal(5), 1 + normal(5) ** 2]
    moved = [put(a) for a in running]
    for training in (True, False, True):
        want = k.batch_norm(x, None, None, *running, training=training)
        got = k.batch_norm(put(x), None, None, *moved, training=training)
        np.testing.assert_allclose(got._to_host(), want, atol=1e-4)
        for a, b in zip(moved, running):
            np.testing.assert_allclose(a._to_host(), b, atol=1e-5)


@pytest.mark.parametrize("shape", [(9, 33), (2, 3, 40), (0, 5), (3, 1500)])
def test_norms_of_rows(normal, shape):
    x, dy, residual = normal(*shape), normal(*shape), normal(*shape)
    weight, bias = normal(shape[-1]), normal(shape[-1])
    n = shape[-1:]
    for a, b in ((x, residual), (x[:, ::-1], residual[:, ::-1])):
        same(
            lambda x, w, b, r: k.layer_norm(x, n, w, b, residual=r, return_stats=True),
            a, weight, bias, b, atol=1e-4,
        )  # fmt: skip
    want = k.layer_norm(x, n, weight, bias, return_stats=True)
    same(k.layer_norm_backward, dy, x, weight, *want[1:], atol=2e-4)
    want = k.rms_norm(x, n, weight, return_stats=True)
    same(lambda x, w: k.rms_norm(x, n, w, activation="relu"), x, weight, atol=1e-4)
    same(k.rms_norm_backward, dy, x, weight, want[1], atol=2e-4)
    with pytest.raises(hl.DeviceError, match="x and weight must lie on one device"):
        k.layer_norm(put(x), n, weight)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_embedding(rng, normal, dtype):
    weight = normal(11, 6)
    for shape in ((5, 3), (0,), (400,)):
        indices = rng.integers(0, 11, shape).astype(dtype)
        dy = normal(*shape, 6)
        same(k.embedding, indices, weight)
        same(k.embedding, indices.T, weight[:, ::2])
        for by_frequency in (False, True):
            same(
                lambda dy, i, f=by_frequency: k.embedding_backward(
                    dy, i, 11, padding_idx=2, scale_grad_by_freq=f
                ),
                dy, indices, atol=1e-4,
            )  # fmt: skip
    k.embedding(put(np.full(3, 11, dtype)), put(weight))  # more of it: test_cuda_step.py
    with pytest.raises(IndexError, match="indices must lie in"):
        hl.cuda.synchronize()
    with pytest.raises(hl.DeviceError, match="indices and weight must lie on one device"):
        k.embedding(indices, put(weight))


@pytest.mark.parametrize("name", ["uniform", "normal", "bernoulli"])
def test_random_numbers_into_out(dtype, name):
    settings = {"shape": (7, 33), "key": k.random_key()}
    if name == "bernoulli":
        settings["p"] = 0.3
    out = put(np.zeros((7, 33), dtype))
    got = getattr(k, name)(**settings, out=out)
    want = getattr(k, name)(**settings, dtype=dtype)
    assert got is out
    np.testing.assert_allclose(got._to_host(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2, 700])
def test_permutations_into_out(n):
    key = k.random_key()
    want = k.permutation(n, key=key)
    out = put(np.zeros(n, "i8"))
    assert k.permutation(n, key=key, out=out) is out
    np.testing.assert_array_equal(out._to_host(), want)
    wide = put(np.zeros(2 * n, "i8"))
    assert k.permutation(n, key=key, out=wide[::2]).shape == (n,)
    np.testing.assert_array_equal(wide._to_host()[::2], want)


def test_wrong_outs_of_permutations():
    with pytest.raises(hl.DTypeError, match="permutation: out must be int64, got int32"):
        k.permutation(3, out=put(np.zeros(3, "i4")))
    with pytest.raises(hl.ShapeError, match=r"permutation: out must have shape \(3,\), got \(4,\)"):
        k.permutation(3, out=put(np.zeros(4, "i8")))


@pytest.mark.parametrize("make", [
    lambda d: hl.rand(5, 7, device=d), lambda d: hl.randn(70, dtype=np.float64, device=d),
    lambda d: hl.randperm(300, device=d), lambda d: hl.randint(3, 9, (50,), device=d),
    lambda d: hl.rand_like(hl.ones(9, device=d)), lambda d: hl.randn_like(hl.ones(9, device=d)),
    lambda d: hl.bernoulli(hl.ones(200, device=d) * 0.4),
    lambda d: hl.bernoulli(hl.ones(200, device=d), 0.3),
])  # fmt: skip
def test_random_tensors_are_those_of_the_cpu(make):
    hl.seed(8)
    want = make("cpu")
    hl.seed(8)
    got = make("cuda")
    assert got.is_cuda
    np.testing.assert_allclose(got.cpu().numpy(), want.numpy(), rtol=1e-5, atol=1e-6)
    assert got.dtype == want.dtype
