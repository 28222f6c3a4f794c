"""What bench/device_check.py tries on a GPU: for each family its cases, small and ragged ones for
correctness, large ones for time, and the rivals' calls for the same work."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import hotloop as hl

k = hl.kernels
Call = Callable[..., Any]


@dataclass
class Case:
    """A call on arrays, with what it costs. On the CPU in float64 it is its own reference."""

    name: str
    call: Call  # takes the arrays
    shapes: list[tuple[int, ...]]
    flops: float = 0.0
    bytes: float = 0.0
    tolerance: float = 2e-5  # relative, by the norm of the difference
    torch: Call | None = None  # takes the module torch and its tensors
    jax: Call | None = None  # takes the module jax.numpy and its arrays
    triton: Call | None = None  # takes the modules device_triton and torch, and torch's tensors
    scale: float = 1.0
    agreed: bool = True  # the rivals' results are ours
    extra: tuple[np.ndarray, ...] = field(default=())  # arrays that are not random numbers

    def arrays(self, seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        made = [self.scale * rng.standard_normal(shape, np.float32) for shape in self.shapes]
        return [array.astype(np.float32) for array in made] + list(self.extra)


def _gemm(m: int, n: int, depth: int, trans_b: bool = False) -> Case:
    shapes = [(m, depth), (n, depth) if trans_b else (depth, n)]
    return Case(
        f"gemm {m}x{n}x{depth}{' NT' if trans_b else ''}",
        lambda a, b: k.gemm(a, b, trans_b=trans_b),
        shapes,
        flops=2.0 * m * n * depth,
        bytes=4.0 * (m * depth + depth * n + m * n),
        torch=lambda torch, a, b: a @ (b.T if trans_b else b),
        jax=lambda jnp, a, b: jnp.matmul(a, b.T if trans_b else b, precision="highest"),
        triton=None if trans_b else lambda triton, torch, a, b: triton.product(torch, a, b),
    )


def _conv(n: int, c: int, size: int, o: int, taps: int, stride: int = 1) -> Iterator[Case]:
    pad, out = taps // 2, (size + 2 * (taps // 2) - taps) // stride + 1
    x, w, y = (n, size, size, c), (o, c, taps, taps), (n, out, out, o)
    flops = 2.0 * n * out * out * o * c * taps * taps
    how = {"stride": stride, "padding": pad}
    name = f"conv2d {n}x{c}@{size}->{o} {taps}x{taps}" + (f" /{stride}" if stride > 1 else "")

    def first(image: Any) -> Any:  # channels last in memory, seen as NCHW
        return image.transpose((0, 3, 1, 2))

    def seen(torch: Any, image: Any) -> Any:
        return image.permute(0, 3, 1, 2)

    def grads(torch: Any, dy: Any, x: Any, w: Any, which: int) -> Any:
        mask = [which == 0, which == 1, False]
        pair = [stride, stride], [pad, pad], [1, 1]
        backward = torch.ops.aten.convolution_backward
        w = w.contiguous(memory_format=torch.channels_last)
        return backward(dy, x, w, None, *pair, False, [0, 0], 1, mask)[which]

    yield Case(
        f"{name} forward",
        lambda x, w: k.conv2d(first(x), w, **how),
        [x, w],
        flops,
        torch=lambda torch, x, w: torch.nn.functional.conv2d(
            seen(torch, x), w.contiguous(memory_format=torch.channels_last), **how
        ),
    )
    shape = (n, c, size, size)
    yield Case(
        f"{name} backward input",
        lambda dy, w: k.conv2d_backward_input(first(dy), w, shape, **how),
        [y, w],
        flops,
        torch=lambda torch, dy, w: grads(
            torch, seen(torch, dy), seen(torch, dy.new_empty(x)), w, 0
        ),
    )
    yield Case(
        f"{name} backward weight",
        lambda dy, x: k.conv2d_backward_weight(first(dy), first(x), w, **how),
        [y, x],
        flops,
        torch=lambda torch, dy, image: grads(
            torch, seen(torch, dy), seen(torch, image), dy.new_empty(w), 1
        ),
    )


def _pool(n: int, size: int, c: int) -> Iterator[Case]:
    x = (n, size, size, c)
    seen = {"layout": "NHWC"}
    moved = 4.0 * n * size * size * c * 1.25

    def first(image: Any) -> Any:  # views: channels stay last in memory
        return image.permute(0, 3, 1, 2)

    def last(image: Any) -> Any:
        return image.permute(0, 2, 3, 1)

    yield Case(
        f"max_pool2d {n}x{size}x{size}x{c}",
        lambda x: k.max_pool2d(x, 2, **seen),
        [x],
        bytes=moved,
        torch=lambda torch, x: last(torch.nn.functional.max_pool2d(first(x), 2)),
    )
    yield Case(
        f"avg_pool2d 3x3 {n}x{size}x{size}x{c}",
        lambda x: k.avg_pool2d(x, 3, stride=2, padding=1, **seen),
        [x],
        bytes=moved,
        torch=lambda torch, x: last(torch.nn.functional.avg_pool2d(first(x), 3, 2, 1)),
    )


def _torch_cross_entropy(torch: Any, x: Any, labels: Any) -> Any:
    """The loss and its gradient, as autograd computes them."""
    logs = torch.log_softmax(x, -1)
    loss = torch.nn.functional.nll_loss(logs, labels)
    back = torch.ops.aten.nll_loss_backward
    one, total = torch.ones_like(loss), torch.full_like(loss, labels.numel())
    dlogs = back(one, logs, labels, None, 1, -100, total)
    return loss, torch.ops.aten._log_softmax_backward_data(dlogs, logs, -1, x.dtype)


def _jax_softmax(jnp: Any, x: Any) -> Any:
    power = jnp.exp(x - jnp.max(x, -1, keepdims=True))
    return power / jnp.sum(power, -1, keepdims=True)


def _rows(rows: int, columns: int) -> Iterator[Case]:
    shape, size = (rows, columns), 4.0 * rows * columns
    yield Case(
        f"softmax {rows}x{columns}", k.softmax, [shape], bytes=2 * size,
        torch=lambda torch, x: torch.softmax(x, -1),
        jax=lambda jnp, x: _jax_softmax(jnp, x),
        triton=lambda triton, torch, x: triton.softmax(torch, x),
    )  # fmt: skip
    labels = (np.arange(rows) % columns).astype(np.int64)
    yield Case(
        f"cross_entropy_with_grad {rows}x{columns}",
        lambda x, labels: k.cross_entropy_with_grad(x, labels),
        [shape],
        bytes=2 * size,
        extra=(labels,),
        torch=_torch_cross_entropy,
    )
    yield Case(
        f"layer_norm {rows}x{columns}",
        lambda x, weight, bias: k.layer_norm(x, (columns,), weight, bias),
        [shape, (columns,), (columns,)],
        bytes=2 * size,
        torch=lambda torch, x, w, b: torch.nn.functional.layer_norm(x, (columns,), w, b),
        triton=lambda triton, torch, x, w, b: triton.layer_norm(torch, x, w, b),
    )
    for axis in (0, 1):
        yield Case(
            f"sum of {rows}x{columns} over axis {axis}",
            lambda x, axis=axis: k.sum(x, axis=axis),
            [shape],
            bytes=size,
            torch=lambda torch, x, axis=axis: torch.sum(x, axis),
            jax=lambda jnp, x, axis=axis: jnp.sum(x, axis),
        )


def _elements(count: int) -> Iterator[Case]:
    for name in ("relu", "gelu", "tanh"):
        yield Case(
            f"{name} of {count}", getattr(k, name), [(count,)], bytes=8.0 * count,
            torch=lambda torch, x, name=name: _torch_activation(torch, x, name),
            triton=None if name != "relu" else lambda triton, torch, x: triton.relu(torch, x),
        )  # fmt: skip
    yield Case(
        f"add of {count}", k.add, [(count,), (count,)], bytes=12.0 * count,
        torch=lambda torch, x, y: x + y,
        jax=lambda jnp, x, y: x + y,
        triton=lambda triton, torch, x, y: triton.add(torch, x, y),
    )  # fmt: skip


def _torch_activation(torch: Any, x: Any, name: str) -> Any:
    return (torch.tanh if name == "tanh" else getattr(torch.nn.functional, name))(x)


def _beside(x: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Memory without values where x lies."""
    if isinstance(x, np.ndarray):
        return np.empty(shape, dtype)
    return hl._core.cuda_empty(shape, np.dtype(dtype), x.device_index)


def _activations(shape: tuple[int, ...]) -> Iterator[Case]:
    """All of them, forward and backward."""
    for name, _, saved in hl._core.activations:
        forward, backward = getattr(k, name), getattr(k, f"{name}_backward")

        def both(x: Any, dy: Any, f: Call = forward, b: Call = backward, by: str = saved) -> Any:
            y = f(x)
            return y, b(dy, y if by == "y" else x)

        yield Case(f"{name} and backward {shape}", both, [shape, shape], scale=2.0)


def _operations(shape: tuple[int, ...]) -> Iterator[Case]:
    """Functions of one and two operands, a row against a matrix; comparisons, where."""

    def positive(x: Any) -> Any:
        return k.add(k.abs(x), 0.5)

    def of_one(function: Call) -> Call:
        return lambda x: function(positive(x))

    def of_two(function: Call) -> Call:
        return lambda x, y: function(positive(x), positive(y))

    for name in hl._core.unary_functions:
        yield Case(f"{name} {shape}", of_one(getattr(k, name)), [shape])
    for name in (*hl._core.binary_functions, *hl._core.comparisons):
        yield Case(f"{name} {shape}", of_two(getattr(k, name)), [shape, shape[-1:]])
    yield Case(
        f"where {shape}", lambda x, y: k.where(k.lt(x, y), x, k.clip(y, -0.5, 0.5)), [shape, shape]
    )


def _image_norms(n: int, c: int, size: int) -> Iterator[Case]:
    shape, vector = (n, c, size, size), (c,)

    def batch(x: Any, w: Any, b: Any, dy: Any) -> Any:
        mean, var = k.mul(w, 0.0), k.add(k.mul(w, 0.0), 1.0)
        y, *saved = k.batch_norm(x, w, b, mean, var, training=True, return_stats=True)
        return (y, mean, var, *k.batch_norm_backward(dy, x, w, *saved))

    def groups(x: Any, w: Any, b: Any, dy: Any) -> Any:
        y, *saved = k.group_norm(x, c // 2, w, b, return_stats=True)
        return (y, *k.group_norm_backward(dy, x, c // 2, w, *saved))

    operands = [shape, vector, vector, shape]
    yield Case(f"batch_norm and backward {shape}", batch, operands, tolerance=1e-4)
    yield Case(f"group_norm and backward {shape}", groups, operands, tolerance=1e-4)


def _embeddings(rows: int, width: int, positions: int) -> Iterator[Case]:
    indices = (np.arange(positions) * 7 % rows).astype(np.int64)
    yield Case(
        f"embedding {positions} of {rows}x{width}", lambda w, i: k.embedding(i, w), [(rows, width)],
        extra=(indices,), torch=lambda torch, w, i: torch.nn.functional.embedding(i, w),
        bytes=8.0 * positions * width,
    )  # fmt: skip
    yield Case(
        f"embedding_backward {positions} of {rows}x{width}",
        lambda dy, i: k.embedding_backward(dy, i, rows), [(positions, width)], extra=(indices,),
        bytes=4.0 * (positions + rows) * width,
    )  # fmt: skip


STEPS = {"sgd_step": 1, "adam_step": 2, "adamw_step": 2, "lion_step": 1, "rmsprop_step": 1,
         "adagrad_step": 1, "adadelta_step": 2, "adamax_step": 2, "lamb_step": 2}  # fmt: skip
COUNTED = ("adam_step", "adamw_step", "adagrad_step", "adamax_step", "lamb_step")


def _optimizers(shape: tuple[int, ...]) -> Iterator[Case]:
    def step_of(function: Call, counted: dict[str, int]) -> Call:
        def step(*arrays: Any) -> Any:
            slots = [k.mul(a, 1.0) for a in arrays[:2]] + [k.abs(a) for a in arrays[2:]]
            function(*slots, lr=0.01, **counted)
            return tuple(slots)

        return step

    for name, count in STEPS.items():
        step = step_of(getattr(k, name), {"step": 3} if name in COUNTED else {})
        yield Case(f"{name} {shape}", step, [shape] * (2 + count), tolerance=1e-4)


def _adam(count: int) -> Case:
    """In place over the same arrays again and again: for time."""
    return Case(
        f"adamw_step {count}", lambda p, g, m, v: k.adamw_step(p, g, m, k.abs(v, out=v), lr=0.0,
                                                              step=3),
        [(count,)] * 4, bytes=36.0 * count,
    )  # fmt: skip


KEY = (3, 5)


def _draws(count: int) -> Iterator[Case]:
    """The CPU's very numbers; `x` only says where."""
    yield Case(
        f"uniform and normal {count}",
        lambda x: (
            k.uniform(count, key=KEY, out=_beside(x, (count,), "f4")),
            k.normal(count, key=KEY, out=_beside(x, (count,), "f4")),
            k.bernoulli(count, 0.3, key=KEY, out=_beside(x, (count,), "f4")),
        ),
        [(1,)],
        tolerance=1e-6,
    )
    yield Case(
        f"permutation {count}",
        lambda x: k.permutation(count, key=KEY, out=_beside(x, (count,), "i8")),
        [(1,)],
        tolerance=0.0,
    )


def _dropout(count: int) -> Case:
    return Case(
        f"dropout of {count}", lambda x: k.dropout(x, 0.3, key=KEY), [(count,)], bytes=8.0 * count,
        torch=lambda torch, x: torch.nn.functional.dropout(x, 0.3), agreed=False,
    )  # fmt: skip


def _along(shape: tuple[int, ...]) -> Iterator[Case]:
    for axis in range(len(shape)):
        yield Case(
            f"argmax and cumsum of {shape} over axis {axis}",
            lambda x, axis=axis: (k.argmax(x, axis), k.cumsum(x, axis)),
            [shape],
        )


def correctness() -> dict[str, list[Case]]:
    """Small and ragged cases of every family (a file of csrc/kernels/cuda), by their weight."""
    return {
        "gemm": [_gemm(65, 67, 33), _gemm(5, 130, 300, True), _gemm(130, 129, 2000)],
        "conv": [*_conv(2, 3, 9, 12, 3), *_conv(2, 8, 11, 20, 3, 2), *_conv(1, 16, 7, 8, 1)],
        "activation": [*list(_elements(1023))[:3], *_activations((7, 33))],
        "elementwise": [*list(_elements(1023))[3:], *_operations((5, 36))],
        "softmax": [case for case in _rows(17, 70) if "soft" in case.name],
        "loss": [case for case in _rows(17, 70) if "cross" in case.name],
        "norm_rows": [case for case in _rows(17, 70) if "norm" in case.name],
        "norm": list(_image_norms(3, 6, 5)),
        "optimizer": list(_optimizers((33, 7))),
        "reduce": [case for case in _rows(17, 70) if "sum" in case.name],
        "reduce_along": list(_along((5, 33, 4))),
        "pool": list(_pool(2, 9, 5)),
        "embedding": list(_embeddings(19, 6, 50)),
        "dropout": [_dropout(1001)],
        "random": list(_draws(777)),
        "device_copy": [Case("a transposed copy", lambda x: x.T.copy(), [(33, 18)], tolerance=0.0)],
    }


def timed() -> dict[str, list[Case]]:
    """Sizes at which a GPU is at its limit."""
    rows = list(_rows(8192, 4096))
    return {
        "gemm": [*(_gemm(n, n, n) for n in (1024, 4096, 8192)), _gemm(4096, 4096, 4096, True),
                 _gemm(64, 4096, 4096, True), _gemm(1, 8192, 8192, True), _gemm(256, 256, 65536)],
        "conv": [*_conv(64, 64, 56, 64, 3), *_conv(64, 128, 28, 256, 3, 2),
                 *_conv(64, 256, 14, 1024, 1), *_conv(256, 3, 32, 64, 3)],
        "activation": list(_elements(1 << 26))[:3],
        "elementwise": list(_elements(1 << 26))[3:],
        "softmax": [case for case in rows if "soft" in case.name],
        "loss": [case for case in rows if "cross" in case.name],
        "norm_rows": [case for case in rows if "norm" in case.name],
        "norm": list(_image_norms(64, 64, 56)),
        "optimizer": [_adam(25_000_000)],
        "embedding": list(_embeddings(50_257, 768, 8192)),
        "dropout": [_dropout(1 << 26)],
        "random": list(_draws(1 << 20)),
        "reduce": [case for case in rows if "sum" in case.name],
        "pool": list(_pool(64, 112, 64)),
    }  # fmt: skip


def networks(small: bool) -> dict[str, tuple[Call, tuple[int, ...], int]]:
    """Whole training steps: a model from the module `nn`, the shape of a batch, the classes."""

    def mlp(nn: Any) -> Any:
        sizes = (784, 64, 64, 10)
        layers: list[Any] = []
        for i, o in itertools.pairwise(sizes):
            layers += [nn.Linear(i, o), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def cnn(nn: Any) -> Any:
        width = 4 if small else 32
        size = 8 if small else 32
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(2 * width * (size // 4) ** 2, 10),
        )  # fmt: skip

    def norms(nn: Any) -> Any:
        width = 4 if small else 64
        size = 8 if small else 32
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GroupNorm(2, width), nn.GELU(),
            nn.Flatten(), nn.Linear(width * (size // 2) ** 2, 64), nn.LayerNorm(64),
            nn.Linear(64, 10),
        )  # fmt: skip

    batch = 8 if small else 128
    image = 8 if small else 32
    images = (batch, 3, image, image)
    return {
        "MLP": (mlp, (batch, 784), 10),
        "CNN": (cnn, images, 10),
        "norms": (norms, images, 10),
    }
