"""Normalization and embedding layers against PyTorch, where it is installed: values, gradients,
running statistics, 20 training steps. float64 within 1e-9."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import nn

torch = pytest.importorskip("torch")
from test_oracle import build, close, copy_weights, rng, tensors  # noqa: E402, F401

LAYERS = {
    "BatchNorm1d": ("BatchNorm1d(6)", (5, 6)),
    "BatchNorm1d_length": ("BatchNorm1d(6, eps=1e-3, momentum=0.3)", (5, 6, 7)),
    "BatchNorm2d": ("BatchNorm2d(6)", (3, 6, 5, 4)),
    "BatchNorm2d_average": ("BatchNorm2d(6, momentum=None)", (3, 6, 5, 4)),
    "BatchNorm2d_plain": ("BatchNorm2d(6, affine=False)", (3, 6, 5, 4)),
    "BatchNorm2d_untracked": ("BatchNorm2d(6, track_running_stats=False)", (3, 6, 5, 4)),
    "InstanceNorm1d": ("InstanceNorm1d(6)", (5, 6, 7)),
    "InstanceNorm1d_single": ("InstanceNorm1d(6, affine=True)", (6, 7)),
    "InstanceNorm2d": ("InstanceNorm2d(6, affine=True)", (3, 6, 5, 4)),
    "InstanceNorm2d_single": ("InstanceNorm2d(6)", (6, 5, 4)),
    "InstanceNorm2d_tracked": (
        "InstanceNorm2d(6, affine=True, track_running_stats=True, momentum=0.2)", (3, 6, 5, 4),
    ),
    "GroupNorm": ("GroupNorm(3, 6)", (4, 6, 5)),
    "GroupNorm_plain": ("GroupNorm(2, 6, eps=1e-3, affine=False)", (4, 6, 5, 3)),
    "LayerNorm": ("LayerNorm(7)", (4, 7)),
    "LayerNorm_axes": ("LayerNorm([4, 5], eps=1e-3)", (3, 2, 4, 5)),
    "LayerNorm_no_bias": ("LayerNorm(7, bias=False)", (2, 4, 7)),
    "LayerNorm_plain": ("LayerNorm(7, elementwise_affine=False)", (4, 7)),
    "RMSNorm": ("RMSNorm(7)", (4, 7)),
    "RMSNorm_axes": ("RMSNorm([4, 5], eps=1e-3)", (3, 4, 5)),
    "RMSNorm_plain": ("RMSNorm(7, elementwise_affine=False)", (4, 7)),
}  # fmt: skip


def same_state(ours, theirs, dtype):
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for name, tensor in ours.state_dict().items():
        if expected[name].dtype == torch.int64:
            assert tensor.dtype == np.int64
            assert tensor.item() == expected[name].item()
        else:
            close(tensor, expected[name], dtype, name)


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_in_training_and_in_eval_mode(name, channels_last, dtype, rng):  # noqa: F811
    text, shape = LAYERS[name]
    theirs = build(torch.nn, text).to(torch.float64 if dtype == np.float64 else torch.float32)
    ours = build(nn, text).to(dtype)
    for parameter in theirs.parameters():
        parameter.data = torch.tensor(rng.standard_normal(tuple(parameter.shape)).astype(dtype))
    same_state(build(nn, text), build(torch.nn, text), np.float32)
    copy_weights(ours, theirs)
    for step in range(4):
        if step == 2:
            ours.eval()
            theirs.eval()
        array = (2.0 * rng.standard_normal(shape) + 1.0).astype(dtype)
        x, tx = tensors(array)
        if channels_last and array.ndim > 2:
            memory = np.ascontiguousarray(np.moveaxis(array, 1, -1))
            x = hl.from_numpy(np.moveaxis(memory, -1, 1)).requires_grad_()
        y, ty = ours(x), theirs(tx)
        close(y, ty, dtype)
        dy = rng.standard_normal(y.shape).astype(dtype)
        for parameter, other in zip(ours.parameters(), theirs.parameters()):
            parameter.grad = other.grad = None
        y.backward(dy)
        ty.backward(torch.tensor(dy))
        close(x.grad, tx.grad, dtype, "dx")
        for (path, parameter), other in zip(ours.named_parameters(), theirs.parameters()):
            close(parameter.grad, other.grad, dtype, path)
        same_state(ours, theirs, dtype)


def test_functions_of_the_same_names(dtype, rng):  # noqa: F811
    f, g = nn.functional, torch.nn.functional
    (x, tx), (w, tw), (b, tb) = (
        tensors(rng.standard_normal(shape).astype(dtype)) for shape in ((3, 4, 5), (4,), (4,))
    )
    mean, their_mean = tensors(rng.standard_normal(4).astype(dtype))
    var, their_var = tensors(rng.uniform(0.5, 2.0, 4).astype(dtype))
    stats, their_stats = (mean.detach(), var.detach()), (their_mean.detach(), their_var.detach())
    for training in (False, True):
        close(
            f.batch_norm(x, *stats, w, b, training, 0.2, 1e-3),
            g.batch_norm(tx, *their_stats, tw, tb, training, 0.2, 1e-3), dtype,
        )  # fmt: skip
        close(
            f.instance_norm(x, *stats, w, b, training, 0.2, 1e-3),
            g.instance_norm(tx, *their_stats, tw, tb, training, 0.2, 1e-3), dtype,
        )  # fmt: skip
        for one, other in zip(stats, their_stats):
            close(one, other, dtype)
    close(f.instance_norm(x), g.instance_norm(tx), dtype)
    close(f.group_norm(x, 2, w, b), g.group_norm(tx, 2, tw, tb), dtype)
    close(f.layer_norm(x, (4, 5)), g.layer_norm(tx, (4, 5)), dtype)
    close(f.rms_norm(x, (5,)), g.rms_norm(tx, (5,)), dtype)
    close(f.rms_norm(x, (5,), eps=0.1), g.rms_norm(tx, (5,), eps=0.1), dtype)


def test_layers_without_bias_and_their_text():
    for layer in (nn.BatchNorm2d(4, bias=False), nn.GroupNorm(2, 4, bias=False)):
        assert [name for name, _ in layer.named_parameters()] == ["weight"]
        assert layer(hl.ones(2, 4, 3, 3)).shape == (2, 4, 3, 3)
    assert repr(nn.BatchNorm1d(6)) == (
        "BatchNorm1d(6, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)"
    )
    assert repr(nn.LayerNorm(7)) == (
        "LayerNorm((7,), eps=1e-05, elementwise_affine=True, bias=True)"
    )


def test_layers_name_what_they_expect():
    with pytest.raises(hl.ShapeError, match="BatchNorm2d: input of rank 4 is expected"):
        nn.BatchNorm2d(4)(hl.ones(2, 4))
    with pytest.raises(hl.ShapeError, match="num_features=4 channels along axis 1, got shape"):
        nn.BatchNorm1d(4)(hl.ones(2, 3))
    with pytest.raises(hl.ShapeError, match="num_features=4 channels along axis 0, got shape"):
        nn.InstanceNorm1d(4)(hl.ones(3, 5))
    with pytest.raises(hl.ShapeError, match=r"GroupNorm: input \(n, 4, ...\) is expected"):
        nn.GroupNorm(2, 4)(hl.ones(2, 3))
    with pytest.raises(ValueError, match="multiple of num_groups=3, got 4"):
        nn.GroupNorm(3, 4)


def images(n):
    return n.Sequential(
        n.Conv2d(2, 8, 3, padding=1), n.BatchNorm2d(8), n.ReLU(), n.MaxPool2d(2),
        n.Conv2d(8, 8, 3), n.GroupNorm(2, 8), n.GELU(), n.InstanceNorm2d(8, affine=True),
        n.Flatten(), n.Linear(32, 12), n.BatchNorm1d(12), n.Tanh(), n.Linear(12, 5),
    )  # fmt: skip


def rows(n):
    return n.Sequential(
        n.LayerNorm(16), n.Linear(16, 24), n.RMSNorm(24), n.GELU(), n.LayerNorm(24),
        n.Linear(24, 5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "shape"), [(images, (2, 8, 8)), (rows, (16,))], ids=["images", "rows"]
)
def test_20_training_steps(make, shape):
    dtype = np.float64  # in float32 a batch norm amplifies rounding
    data = np.random.default_rng(0)
    torch.manual_seed(0)
    theirs = make(torch.nn).double()
    ours = make(nn).double()
    copy_weights(ours, theirs)
    optimizer = hl.optim.SGD(ours.parameters(), lr=0.05, momentum=0.9)
    other = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        x, labels = data.standard_normal((16, *shape)), data.integers(0, 5, 16)
        loss = nn.CrossEntropyLoss()(ours(hl.tensor(x)), hl.tensor(labels))
        their_loss = torch.nn.CrossEntropyLoss()(theirs(torch.tensor(x)), torch.tensor(labels))
        assert abs(loss.item() - their_loss.item()) < 1e-9
        for one, its_optimizer in ((loss, optimizer), (their_loss, other)):
            its_optimizer.zero_grad()
            one.backward()
            its_optimizer.step()
    same_state(ours, theirs, dtype)


@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_embedding(index_type, dtype, rng):  # noqa: F811
    indices = rng.integers(0, 9, (4, 6)).astype(index_type)
    dy = rng.standard_normal((4, 6, 5)).astype(dtype)
    for options in ({}, {"padding_idx": 3}, {"padding_idx": -1, "scale_grad_by_freq": True}):
        theirs = torch.nn.Embedding(9, 5, **options)
        theirs = theirs.to(torch.float64 if dtype == np.float64 else torch.float32)
        ours = nn.Embedding(9, 5, **options).to(dtype)
        copy_weights(ours, theirs)
        y, ty = ours(hl.tensor(indices)), theirs(torch.tensor(indices))
        close(y, ty, dtype)
        y.backward(dy)
        ty.backward(torch.tensor(dy))
        close(ours.weight.grad, theirs.weight.grad, dtype, "dweight")


def words(n):
    return n.Sequential(
        n.Embedding(30, 8, padding_idx=0), n.LayerNorm(8), n.Flatten(), n.Linear(48, 5)
    )


def test_20_training_steps_of_an_embedding():
    data = np.random.default_rng(0)
    torch.manual_seed(0)
    theirs, ours = words(torch.nn).double(), words(nn).double()
    copy_weights(ours, theirs)
    optimizer = hl.optim.Adam(ours.parameters(), lr=1e-2)
    other = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for _ in range(20):
        x, labels = data.integers(0, 30, (16, 6)), data.integers(0, 5, 16)
        loss = nn.CrossEntropyLoss()(ours(hl.tensor(x)), hl.tensor(labels))
        their_loss = torch.nn.CrossEntropyLoss()(theirs(torch.tensor(x)), torch.tensor(labels))
        assert abs(loss.item() - their_loss.item()) < 1e-9
        for one, its_optimizer in ((loss, optimizer), (their_loss, other)):
            its_optimizer.zero_grad()
            one.backward()
            its_optimizer.step()
    same_state(ours, theirs, np.float64)
