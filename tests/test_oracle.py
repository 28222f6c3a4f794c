"""Layers, losses, optimizers and whole loss curves against PyTorch, where it is installed.

float64 within 1e-9; float32 within 1e-3, since training amplifies rounding.
"""

from __future__ import annotations

import inspect
import zlib

import numpy as np
import pytest

import hotloop as hl
from hotloop import nn

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # its threads wait in loops, which is slow beside other work

BOUND = {np.float64: 1e-9, np.float32: 1e-3}


@pytest.fixture
def rng(request):
    """The same data at every run: rounding may be amplified from some starts."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


def tensors(array):
    """The same array as a tensor of either side, both leaves."""
    ours = hl.tensor(array)
    theirs = torch.tensor(array)
    if array.dtype.kind == "f":
        ours.requires_grad_()
        theirs.requires_grad_()
    return ours, theirs


def close(ours, theirs, dtype, name="result"):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape, name
    assert ours.dtype == theirs.dtype, name
    bound = BOUND[dtype] if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(
        ours.data, theirs, rtol=bound, atol=bound * max(1.0, abs(theirs).max(initial=0)),
        err_msg=name,
    )  # fmt: skip


def copy_weights(ours, theirs):
    """Makes both start from PyTorch's initial weights, whose names and shapes must be ours."""
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict(state)


LAYERS = {
    "Linear": ("Linear(5, 3)", (4, 5)),
    "Linear_3d": ("Linear(5, 3, bias=False)", (2, 4, 5)),
    "Linear_1d": ("Linear(5, 3)", (5,)),
    "Conv2d": ("Conv2d(4, 6, 3)", (2, 4, 9, 8)),
    "Conv2d_options": (
        "Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(2, 1), groups=2)",
        (3, 4, 9, 8),
    ),
    "Conv2d_same": ("Conv2d(2, 3, 3, padding='same', bias=False)", (2, 2, 5, 5)),
    "Conv2d_depthwise": ("Conv2d(4, 4, 3, groups=4, padding=1)", (2, 4, 6, 6)),
    "Conv2d_single": ("Conv2d(2, 3, 3)", (2, 6, 7)),
    "MaxPool2d": ("MaxPool2d(2)", (2, 3, 7, 8)),
    "MaxPool2d_options": ("MaxPool2d(3, 2, 1)", (2, 3, 7, 8)),
    "AvgPool2d": ("AvgPool2d(2)", (2, 3, 7, 8)),
    "AvgPool2d_padding": ("AvgPool2d(3, 2, 1)", (2, 3, 7, 8)),
    "AvgPool2d_inside": ("AvgPool2d(3, 2, 1, count_include_pad=False)", (2, 3, 7, 8)),
    "MaxPool2d_ceil": ("MaxPool2d(3, 2, 1, ceil_mode=True)", (2, 3, 8, 9)),
    "MaxPool2d_dilation": ("MaxPool2d((2, 3), (2, 1), 1, dilation=(3, 2))", (2, 3, 9, 8)),
    "AvgPool2d_ceil": ("AvgPool2d(3, 2, 1, ceil_mode=True)", (2, 3, 8, 9)),
    "AvgPool2d_ceil_inside": (
        "AvgPool2d((2, 3), (3, 2), 1, ceil_mode=True, count_include_pad=False)",
        (2, 3, 8, 9),
    ),
    "AdaptiveAvgPool2d": ("AdaptiveAvgPool2d((3, 5))", (2, 3, 7, 9)),
    "AdaptiveAvgPool2d_larger": ("AdaptiveAvgPool2d((None, 10))", (3, 4, 5)),
    "AdaptiveMaxPool2d": ("AdaptiveMaxPool2d((4, 1))", (2, 3, 7, 9)),
    "Conv1d": ("Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2)", (2, 4, 19)),
    "Conv1d_single": ("Conv1d(2, 3, 5, padding='same')", (2, 11)),
    "Conv3d": ("Conv3d(3, 4, (2, 3, 2), stride=(1, 2, 2), padding=(1, 0, 1))", (2, 3, 5, 6, 7)),
    "Conv3d_groups": (
        "Conv3d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False)",
        (1, 4, 5, 5, 4),
    ),
    "ConvTranspose1d": ("ConvTranspose1d(4, 6, 3, stride=2, output_padding=1)", (2, 4, 7)),
    "ConvTranspose2d": ("ConvTranspose2d(4, 6, 4, stride=2, padding=1)", (2, 4, 5, 6)),
    "ConvTranspose2d_options": (
        "ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), groups=2, dilation=(2, 1))",
        (2, 4, 5, 4),
    ),
    "ConvTranspose2d_far": ("ConvTranspose2d(2, 3, 2, 1, 1, 2, dilation=3)", (2, 2, 4, 5)),
    "ConvTranspose3d": (
        "ConvTranspose3d(2, 4, (2, 3, 2), (2, 1, 2), (1, 0, 1), (1, 0, 0), bias=False)",
        (2, 2, 3, 4, 5),
    ),
    "Flatten": ("Flatten()", (2, 3, 4)),
    "Dropout_eval": ("Dropout(0.5).eval()", (2, 3)),
    "Identity": ("Identity()", (2, 3)),
    "ReLU": ("ReLU()", (3, 40)),
    "LeakyReLU": ("LeakyReLU(0.2)", (3, 40)),
    "ELU": ("ELU(1.5)", (3, 40)),
    "GELU": ("GELU()", (3, 40)),
    "GELU_tanh": ("GELU(approximate='tanh')", (3, 40)),
    "SiLU": ("SiLU()", (3, 40)),
    "Sigmoid": ("Sigmoid()", (3, 40)),
    "Tanh": ("Tanh()", (3, 40)),
    "Softplus": ("Softplus()", (3, 40)),
    "Softplus_beta": ("Softplus(2.0, 5.0)", (3, 40)),
    "Hardswish": ("Hardswish()", (3, 40)),
    "Softmax": ("Softmax(dim=1)", (3, 4, 5)),
    "LogSoftmax": ("LogSoftmax(dim=-1)", (3, 40)),
    "Sequential": ("Sequential(Linear(4, 8), Tanh(), Linear(8, 2))", (5, 4)),
}


def build(module, text):
    return eval(text, {name: getattr(module, name) for name in dir(module)})


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, dtype, rng):
    text, shape = LAYERS[name]
    theirs = build(torch.nn, text).to(torch.float64 if dtype == np.float64 else torch.float32)
    ours = build(nn, text).to(dtype)
    copy_weights(ours, theirs)
    x, tx = tensors((2.0 * rng.standard_normal(shape)).astype(dtype))
    y, ty = ours(x), theirs(tx)
    close(y, ty, dtype)
    dy = rng.standard_normal(y.shape).astype(dtype)
    y.backward(dy)
    ty.backward(torch.tensor(dy))
    close(x.grad, tx.grad, dtype, "dx")
    for (path, parameter), (their_path, other) in zip(
        ours.named_parameters(), theirs.named_parameters()
    ):
        assert path == their_path
        close(parameter.grad, other.grad, dtype, path)


def test_max_pool_indices(rng):
    x, tx = tensors(rng.standard_normal((2, 3, 7, 8)))
    for options in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}):
        values, indices = nn.functional.max_pool2d(x, **options, return_indices=True)
        expected, places = torch.nn.functional.max_pool2d(tx, **options, return_indices=True)
        close(values, expected, np.float64)
        assert indices.dtype == np.int64
        np.testing.assert_array_equal(indices.data, places.numpy())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse_loss(reduction, dtype, rng):
    (x, tx), (y, ty) = (tensors(rng.standard_normal((5, 3)).astype(dtype)) for _ in range(2))
    ours = nn.MSELoss(reduction=reduction)(x, y)
    theirs = torch.nn.MSELoss(reduction=reduction)(tx, ty)
    close(ours, theirs, dtype)
    ours.sum().backward()
    theirs.sum().backward()
    close(x.grad, tx.grad, dtype)
    close(y.grad, ty.grad, dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_weighted_losses(name, reduction, dtype, rng):
    theirs = getattr(torch.nn.functional, name)
    if "weight" not in inspect.signature(theirs).parameters:
        pytest.skip("this PyTorch has no weights here")
    (x, tx), (y, ty) = (tensors(rng.standard_normal((5, 3)).astype(dtype)) for _ in range(2))
    weight = rng.uniform(0.5, 2, (5, 3)).astype(dtype)
    ours = getattr(nn.functional, name)(x, y, reduction=reduction, weight=weight)
    loss = theirs(tx, ty, reduction=reduction, weight=torch.from_numpy(weight))
    close(ours, loss, dtype)
    ours.sum().backward()
    loss.sum().backward()
    close(x.grad, tx.grad, dtype)
    close(y.grad, ty.grad, dtype)
    with pytest.raises(ValueError, match="weight must have the shape of the input"):
        getattr(nn.functional, name)(x, y, weight=weight[0])


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
def test_embedding_max_norm(norm_type, dtype, rng):
    table = (3 * rng.standard_normal((9, 5))).astype(dtype)
    table[4] /= 100  # short: stays
    indices = np.array([[1, 4, 1], [7, 0, 4]])
    theirs = torch.nn.Embedding(9, 5, max_norm=1.5, norm_type=norm_type, dtype=getattr(
        torch, np.dtype(dtype).name
    ))  # fmt: skip
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(table))
    ours = nn.Embedding.from_pretrained(
        hl.tensor(table), freeze=False, max_norm=1.5, norm_type=norm_type
    )
    weights = rng.standard_normal((2, 3, 5)).astype(dtype)
    got, expected = ours(hl.tensor(indices)), theirs(torch.from_numpy(indices))
    close(got, expected, dtype)
    (got * hl.tensor(weights)).sum().backward()
    (expected * torch.from_numpy(weights)).sum().backward()
    close(ours.weight, theirs.weight, dtype)
    close(ours.weight.grad, theirs.weight.grad, dtype)


CROSS_ENTROPY = {
    "plain": {},
    "weight": {"weight": True},
    "ignore": {"ignore_index": 2},
    "smoothing": {"label_smoothing": 0.2},
    "all": {"weight": True, "ignore_index": 1, "label_smoothing": 0.1},
}


@pytest.mark.parametrize("shape", [(6, 4), (4,), (3, 4, 2, 5)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", CROSS_ENTROPY)
def test_cross_entropy(name, reduction, shape, dtype, rng):
    options = dict(CROSS_ENTROPY[name], reduction=reduction)
    theirs = dict(options)
    if options.get("weight"):
        weight = rng.uniform(0.5, 2.0, 4).astype(dtype)
        options["weight"], theirs["weight"] = hl.from_numpy(weight), torch.tensor(weight)
    x, tx = tensors((3 * rng.standard_normal(shape)).astype(dtype))
    axis = 1 if len(shape) > 1 else 0
    labels, their_labels = tensors(
        np.asarray(rng.integers(0, 4, shape[:axis] + shape[axis + 1 :]), np.int64)
    )
    if labels.ndim:  # at least one that counts, or the mean is 0 / 0
        labels.data.flat[0] = 3
        their_labels.view(-1)[0] = 3
    else:
        labels.data[...] = 3
        their_labels.fill_(3)
    ours = nn.CrossEntropyLoss(**options)(x, labels)
    expected = torch.nn.CrossEntropyLoss(**theirs)(tx, their_labels)
    close(ours, expected, dtype)
    ours.sum().backward()
    expected.sum().backward()
    close(x.grad, tx.grad, dtype)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_probabilities(smoothing, dtype, rng):
    for shape in ((6, 4), (3, 4, 5)):
        x, tx = tensors(rng.standard_normal(shape).astype(dtype))
        target = rng.uniform(size=shape).astype(dtype)
        target /= target.sum(1, keepdims=True)
        ours = nn.CrossEntropyLoss(label_smoothing=smoothing)(x, hl.from_numpy(target))
        theirs = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(tx, torch.tensor(target))
        close(ours, theirs, dtype)


PAIR_LOSSES = {
    "L1Loss": {},
    "HuberLoss": {"delta": 0.5},
    "SmoothL1Loss": {"beta": 0.3},
    "SmoothL1Loss of no width": {"beta": 0.0},
    "BCELoss": {},
    "BCELoss weight": {"weight": (3,)},
    "BCEWithLogitsLoss": {},
    "BCEWithLogitsLoss weights": {"weight": (5, 1), "pos_weight": (3,)},
    "HingeEmbeddingLoss": {},
    "HingeEmbeddingLoss margin": {"margin": 0.3},
    "KLDivLoss": {},
    "KLDivLoss log_target": {"log_target": True},
}


@pytest.mark.filterwarnings("ignore:reduction")  # PyTorch would rather have batchmean
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchmean"])
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_pair_loss(name, reduction, dtype, rng):
    kind, options = name.split()[0], dict(PAIR_LOSSES[name])
    if reduction == "batchmean" and kind != "KLDivLoss":
        pytest.skip("of KLDivLoss only")
    shape = (5, 3)
    x, y = rng.standard_normal(shape), rng.standard_normal(shape)
    if kind.startswith("BCE"):
        y = rng.uniform(size=shape)
        x = rng.uniform(0.05, 0.95, shape) if kind == "BCELoss" else x
    if kind == "HingeEmbeddingLoss":
        y = rng.choice([-1.0, 1.0], shape)
    if kind == "KLDivLoss" and not options:
        y = rng.uniform(0.1, 1.0, shape)
        y[0, 1] = 0
    theirs = dict(options)
    for key in ("weight", "pos_weight"):
        if key in options:
            factor = rng.uniform(0.5, 2.0, options[key]).astype(dtype)
            options[key], theirs[key] = hl.from_numpy(factor), torch.tensor(factor)
    x, tx = tensors(x.astype(dtype))
    y, ty = tensors(y.astype(dtype))
    if kind not in ("L1Loss", "HuberLoss", "SmoothL1Loss"):
        y, ty = y.detach(), ty.detach()
    ours = getattr(nn, kind)(reduction=reduction, **options)(x, y)
    expected = getattr(torch.nn, kind)(reduction=reduction, **theirs)(tx, ty)
    close(ours, expected, dtype)
    ours.sum().backward()
    expected.sum().backward()
    close(x.grad, tx.grad, dtype)
    if ty.requires_grad:
        close(y.grad, ty.grad, dtype)


@pytest.mark.parametrize("shape", [(6, 4), (4,), (3, 4, 2, 5)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_loss(reduction, shape, dtype, rng):
    axis = 1 if len(shape) > 1 else 0
    weight = rng.uniform(0.5, 2.0, 4).astype(dtype)
    labels = np.asarray(rng.integers(0, 4, shape[:axis] + shape[axis + 1 :]), np.int64)
    if labels.ndim:
        labels.flat[:2] = 3, 1  # at least one that counts
    for options in ({}, {"weight": True}, {"weight": True, "ignore_index": 1}):
        if not labels.ndim and "ignore_index" in options:
            continue
        mine, theirs = dict(options), dict(options)
        if "weight" in options:
            mine["weight"], theirs["weight"] = hl.from_numpy(weight), torch.tensor(weight)
        x, tx = tensors(rng.standard_normal(shape).astype(dtype))
        y, ty = tensors(labels)
        ours = nn.NLLLoss(reduction=reduction, **mine)(x, y)
        expected = torch.nn.NLLLoss(reduction=reduction, **theirs)(tx, ty)
        close(ours, expected, dtype)
        ours.sum().backward()
        expected.sum().backward()
        close(x.grad, tx.grad, dtype)


OPTIMIZERS = {
    "SGD": ("SGD", {"lr": 0.1}),
    "SGD_momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}),
    "SGD_all": ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    "SGD_nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "Adam": ("Adam", {}),
    "Adam_decay": ("Adam", {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}),
    "AdamW": ("AdamW", {}),
    "AdamW_options": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_over_20_steps(name, dtype, rng):
    optim = pytest.importorskip("hotloop.optim")
    kind, options = OPTIMIZERS[name]
    start = [rng.standard_normal(shape).astype(dtype) for shape in ((4, 3), (7,), (2, 2, 2))]
    ours = [hl.tensor(array, requires_grad=True) for array in start]
    theirs = [torch.tensor(array, requires_grad=True) for array in start]
    optimizer = getattr(optim, kind)(ours, **options)
    other = getattr(torch.optim, kind)(theirs, **options)
    for _ in range(20):
        optimizer.zero_grad()
        other.zero_grad()
        # Bounded gradients: a steeper loss diverges from some starts, then amplifies rounding.
        sum((p * p + 1.0).log().sum() for p in ours).backward()
        sum((p * p + 1.0).log().sum() for p in theirs).backward()
        optimizer.step()
        other.step()
    for p, q in zip(ours, theirs):
        close(p, q, dtype)


def mlp(n):
    return n.Sequential(
        n.Linear(20, 32), n.ReLU(), n.Linear(32, 32), n.Tanh(), n.Linear(32, 5)
    )  # fmt: skip


def cnn(n):
    return n.Sequential(
        n.Conv2d(1, 6, 3, padding=1), n.ReLU(), n.MaxPool2d(2),
        n.Conv2d(6, 8, 3), n.GELU(), n.AvgPool2d(2), n.Flatten(), n.Linear(8, 5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "shape", "kind", "options"),
    [
        (mlp, (20,), "SGD", {"lr": 0.05, "momentum": 0.9}),
        (mlp, (20,), "Adam", {"lr": 1e-3}),
        (cnn, (1, 8, 8), "SGD", {"lr": 0.02, "momentum": 0.9}),
        (cnn, (1, 8, 8), "AdamW", {"lr": 1e-3}),
    ],
    ids=["mlp-sgd", "mlp-adam", "cnn-sgd", "cnn-adamw"],
)
def test_loss_curve_over_100_steps(make, shape, kind, options, dtype):
    # Fixed data: how far rounding is amplified depends on it.
    optim = pytest.importorskip("hotloop.optim")
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    theirs = make(torch.nn).to(torch.float64 if dtype == np.float64 else torch.float32)
    ours = make(nn).to(dtype)
    copy_weights(ours, theirs)
    images = rng.standard_normal((320, *shape)).astype(dtype)
    labels = rng.integers(0, 5, 320)
    images += labels.reshape(-1, *(1 for _ in shape)).astype(dtype) * dtype(0.2)
    optimizer = getattr(optim, kind)(ours.parameters(), **options)
    other = getattr(torch.optim, kind)(theirs.parameters(), **options)
    curves = [], []
    for step in range(100):
        batch = slice(step % 10 * 32, step % 10 * 32 + 32)
        loss = nn.CrossEntropyLoss()(ours(hl.tensor(images[batch])), hl.tensor(labels[batch]))
        their_loss = torch.nn.CrossEntropyLoss()(
            theirs(torch.tensor(images[batch])), torch.tensor(labels[batch])
        )
        for one, its_optimizer in ((loss, optimizer), (their_loss, other)):
            its_optimizer.zero_grad()
            one.backward()
            its_optimizer.step()
        curves[0].append(loss.item())
        curves[1].append(their_loss.item())
    assert curves[1][-1] < 0.9 * curves[1][0]
    np.testing.assert_allclose(curves[0], curves[1], rtol=0, atol=BOUND[dtype])
