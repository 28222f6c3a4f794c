"""csrc/kernels/cuda/loss.cu on the emulator, against float64 and the CPU's kernels."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

import hotloop.kernels as hk
import reference
from cuda_args import CrossEntropyArgs, PairLossArgs, dtype_code, fill, pointer, small, steps
from emulated import ORDERS, call, kernels, poisoned, thread_order

KINDS = ("labels", "smooth", "probabilities", "nll")
PAIRS = (
    "mse_loss",
    "l1_loss",
    "huber_loss",
    "smooth_l1_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "hinge_embedding_loss",
    "kl_div",
)
IGNORED = -100


def cross_entropy(
    kind: str,
    x: np.ndarray,
    target: np.ndarray,
    *,
    dx: np.ndarray | None,
    weight: np.ndarray | None = None,
    smoothing: float = 0.0,
    scale: float = 1.0,
) -> np.ndarray:
    """The losses of logits (rows, classes) or (images, classes, positions)."""
    rows = [d for d in range(x.ndim) if d != 1]
    losses = poisoned(tuple(x.shape[d] for d in rows), x.dtype.type)
    args = CrossEntropyArgs(dtype_code(x), KINDS.index(kind), pointer(x), pointer(dx))
    args.losses, args.weight = pointer(losses), pointer(weight)
    soft = kind == "probabilities"
    if soft:
        args.probabilities = pointer(target)
    else:
        args.labels, args.wide_labels = pointer(target), target.itemsize == 8
    args.ignore_index, args.scale, args.smoothing = IGNORED, scale, smoothing
    args.classes = x.shape[1]
    args.weight_sum = float(x.shape[1] if weight is None else weight.sum())
    gradient = dx if dx is not None else x
    classes = [steps(x)[1], steps(gradient)[1], steps(target)[1] if soft else 1]
    fill(args.class_strides, classes)
    args.row_dims = len(rows)
    fill(args.row_sizes, [x.shape[d] for d in rows])
    for k, array in enumerate((x, gradient)):
        fill(args.row_strides[k], [steps(array)[d] for d in rows])
    fill(args.row_strides[2], steps(losses))
    fill(args.row_strides[3], [steps(target)[d] for d in rows] if soft else steps(target))
    args.unit_stride = x.shape[1] == 1 or classes == [1, 1, 1]
    args.columns = not args.unit_stride and all(steps(a)[rows[-1]] == 1 for a in (x, gradient))
    call(kernels("loss"), "cross_entropy", args, losses.size)
    return losses


def expected(kind, x, target, weight, smoothing, scale):
    """Losses and gradient in float64, the classes along axis 1."""
    x = np.moveaxis(x.astype(np.float64), 1, -1)
    classes = x.shape[-1]
    w = np.ones(classes) if weight is None else weight.astype(np.float64)
    if kind == "probabilities":
        share = (1 - smoothing) * np.moveaxis(target.astype(np.float64), 1, -1)
        share, ignored = share + smoothing / classes, np.zeros(x.shape[:-1], bool)
    else:
        ignored = target == IGNORED
        share = np.eye(classes)[np.where(ignored, 0, target)]
        share = (1 - smoothing) * share + smoothing / classes
    share = np.where(ignored[..., None], 0, share * w)
    logs = x if kind == "nll" else reference.log_softmax(x)
    losses = np.where(ignored, 0, -np.where(share != 0, share * logs, 0).sum(-1))
    total = 0.0 if kind == "nll" else share.sum(-1, keepdims=True)
    gradient = total * np.exp(logs) - share
    return losses, np.moveaxis(np.where(share.any(-1, keepdims=True), gradient, 0) * scale, -1, 1)


SHAPES = [(4, 1), (5, 10), (3, 40), (2, 700), (1, 1024), (1, 3000), (1, 9000), (2, 21, 31)]
SHAPES = [shape for shape in SHAPES if small(math.prod(shape))]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_cross_entropy(rng, kind, dtype, shape):
    x = rng.standard_normal(shape).astype(dtype)
    if kind == "nll":
        x = -np.abs(x)
    rows = (shape[0], *shape[2:])
    target = rng.integers(0, shape[1], rows).astype(np.int32 if dtype == np.float32 else np.int64)
    target.flat[0] = IGNORED
    if kind == "probabilities":
        target = rng.dirichlet(np.ones(shape[1]), rows).astype(dtype)
        target = np.ascontiguousarray(np.moveaxis(target, -1, 1))
    weight = None if shape[1] == 10 else rng.uniform(0.5, 2, shape[1]).astype(dtype)
    smoothing = {"smooth": 0.1, "probabilities": 0.2}.get(kind, 0.0)
    losses, gradient = expected(kind, x, target, weight, smoothing, 0.25)
    results = []
    for order in ("forward", "random") if x.size > 1000 else ORDERS:
        dx = poisoned(shape, dtype)
        with thread_order(kernels("loss"), order):
            got = cross_entropy(
                kind, x, target, dx=dx, weight=weight, smoothing=smoothing, scale=0.25
            )
        results.append(got.tobytes() + dx.tobytes())
    assert set(results) == {results[0]}
    reference.assert_close(got, losses, 32, kind="function")
    reference.assert_close(dx, gradient, 32, kind="function")
    alone = cross_entropy(kind, x, target, dx=None, weight=weight, smoothing=smoothing)
    assert alone.tobytes() == got.tobytes()
    cross_entropy(kind, x, target, dx=x, weight=weight, smoothing=smoothing, scale=0.25)
    assert x.tobytes() == dx.tobytes()  # the gradient in the logits' place


@pytest.mark.parametrize("classes", [n for n in (10, 400, 9000) if small(3 * n)])
def test_far_logits_and_an_ignored_row_of_nan(rng, classes):
    x = rng.uniform(-1e4, 1e4, (3, classes)).astype(np.float32)
    x[1] = np.nan
    labels = np.array([0, IGNORED, classes - 1], np.int32)
    dx = poisoned(x.shape, np.float32)
    losses = cross_entropy("labels", x, labels, dx=dx)
    want, gradient = expected("labels", x, labels, None, 0.0, 1.0)
    gradient[1] = 0
    reference.assert_close(losses, want, 8, scale=2e4)
    reference.assert_close(dx, gradient, 16, kind="function")


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [n for n in (1, 255, 2048, 5001) if small(n // 2)])
def test_pairs_as_on_the_cpu(rng, name, dtype, n):
    x, target = rng.standard_normal((2, n)).astype(dtype)
    if name == "binary_cross_entropy":
        x, target = rng.uniform(0.01, 0.99, (2, n)).astype(dtype)
    elif name == "binary_cross_entropy_with_logits" or name == "kl_div":
        target = rng.uniform(0.0, 1.0, n).astype(dtype)
    elif name == "hinge_embedding_loss":
        target = rng.choice([-1.0, 1.0], n).astype(dtype)
    x.flat[0] = target.flat[0]
    weight = rng.uniform(0.5, 2, n).astype(dtype) if name.startswith("binary") else None
    more = {} if weight is None else {"weight": weight}
    want = getattr(hk, name)(x, target, reduction="none", **more)
    total, slope = getattr(hk, f"{name}_with_grad")(x, target, reduction="sum", **more)
    args = PairLossArgs(dtype_code(x), PAIRS.index(name), pointer(x), pointer(target))
    args.weight, args.n, args.scale, args.parameter = pointer(weight), n, 1.0, 1.0
    losses, dx = poisoned((n,), dtype), poisoned((n,), dtype)
    args.losses = pointer(losses)
    call(kernels("loss"), "pair_loss", args, n)
    reference.assert_close(losses, want, 4, kind="function")
    partials = poisoned(((n + 2047) // 2048,), dtype)
    args.losses, args.partials, args.dx = None, pointer(partials), pointer(dx)
    with thread_order(kernels("loss"), "random"):
        call(kernels("loss"), "pair_loss", args, n)
    reference.assert_close(dx, slope, 4, kind="function")
    scale = float(np.abs(want).sum(dtype=np.float64)) + 1
    reference.assert_close(
        partials.sum(dtype=np.float64), float(total), 64, scale=scale, dtype=dtype
    )


def test_structs_have_the_size_of_the_kernels():
    assert ctypes.sizeof(CrossEntropyArgs) < 4096
