"""Batch norm (training), layer norm and RMS norm, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target, normal
from ._rivals import torch_call


def _channels_last(x: np.ndarray) -> np.ndarray:
    """The same images over channels-last memory, as conv2d returns them."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _torch_formats(make: Callable[[Any, dict[str, Any]], Call]) -> dict[str, Build]:
    def of(memory_format: str) -> Build:
        def prepare(torch: Any, t: dict[str, Any]) -> Call:
            kind = getattr(torch, memory_format)
            images = {
                n: v.contiguous(memory_format=kind) if v.ndim == 4 else v for n, v in t.items()
            }
            return make(torch, images)

        return torch_call(prepare)

    return {"NCHW": of("contiguous_format"), "channels-last": of("channels_last")}


def _batch_forward(torch: Any, t: dict[str, Any]) -> Call:
    function = torch.ops.aten.native_batch_norm
    return lambda: function(t["x"], t["w"], t["b"], None, None, True, 0.1, 1e-5)[0]


def _batch_backward(torch: Any, t: dict[str, Any]) -> Call:
    function = torch.ops.aten.native_batch_norm
    _, mean, rstd = function(t["x"], t["w"], t["b"], None, None, True, 0.1, 1e-5)
    backward = torch.ops.aten.native_batch_norm_backward
    which = [True, True, True]
    return lambda: backward(t["dy"], t["x"], t["w"], None, None, mean, rstd, True, 1e-5, which)[0]


def _numpy_batch(arrays: Arrays) -> Call:
    x = arrays["x"]
    w, b = (arrays[name][:, None, None] for name in "wb")

    def call() -> Any:
        mean = x.mean(axis=(0, 2, 3), keepdims=True)
        variance = x.var(axis=(0, 2, 3), keepdims=True)
        return (x - mean) * (w / np.sqrt(variance + 1e-5)) + b

    return call


def _batch(n: int, c: int, size: int, *, promised: bool = True, nchw: bool = False) -> list[Case]:
    k = hl.kernels

    def inputs(rng: np.random.Generator) -> Arrays:
        images = {name: normal(rng, n, c, size, size) for name in ("x", "dy")}
        if not nchw:
            images = {name: _channels_last(image) for name, image in images.items()}
        return images | {"w": normal(rng, c), "b": normal(rng, c)}

    def forward(a: Arrays) -> Call:
        return lambda: k.batch_norm(a["x"], a["w"], a["b"], training=True, return_stats=True)[0]

    def backward(a: Arrays) -> Call:
        _, mean, rstd = k.batch_norm(a["x"], a["w"], a["b"], training=True, return_stats=True)
        return lambda: k.batch_norm_backward(a["dy"], a["x"], a["w"], mean, rstd)[0]

    whole = 4.0 * n * c * size * size
    label = f"({n}, {c}, {size}, {size}) f32" + (" NCHW memory" if nchw else "")
    shared: dict[str, Any] = {
        "family": "norm",
        "inputs": inputs,
        "ceiling": "copy" if whole > 4e6 else "",
        "target": Target("torch", 3.0) if promised else None,
        "quick": whole < 1e6,
    }
    return [
        Case(
            name=f"batch_norm forward of {label}",
            contenders={
                "hotloop": forward,
                "numpy": _numpy_batch,
                "torch": _torch_formats(_batch_forward),
            },
            bytes=2 * whole,
            **shared,
        ),
        Case(
            name=f"batch_norm backward of {label}",
            contenders={"hotloop": backward, "torch": _torch_formats(_batch_backward)},
            bytes=3 * whole,
            **shared,
        ),
    ]


def _numpy_layer(arrays: Arrays) -> Call:
    x, w, b = (arrays[name] for name in "xwb")

    def call() -> Any:
        mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-5) * w + b

    return call


def _numpy_rms(arrays: Arrays) -> Call:
    x, w = arrays["x"], arrays["w"]
    return lambda: x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + 1e-5) * w


def _torch_forward(
    forward: Callable[[Any, dict[str, Any]], Any],
) -> Callable[[Any, dict[str, Any]], Call]:
    return lambda torch, t: lambda: forward(torch, t)


def _torch_backward(
    forward: Callable[[Any, dict[str, Any]], Any],
) -> Callable[[Any, dict[str, Any]], Call]:
    def make(torch: Any, t: dict[str, Any]) -> Call:
        leaves = (t["x"].requires_grad_(), t["w"].requires_grad_())
        with torch.enable_grad():
            y = forward(torch, t)
        return lambda: torch.autograd.grad(y, leaves, t["dy"], retain_graph=True)[0]

    return make


def _torch_layer(torch: Any, t: dict[str, Any]) -> Any:
    return torch.nn.functional.layer_norm(t["x"], t["x"].shape[1:], t["w"], t["b"], 1e-5)


def _torch_rms(torch: Any, t: dict[str, Any]) -> Any:
    return torch.nn.functional.rms_norm(t["x"], t["x"].shape[1:], t["w"], 1e-5)


def _rows(rows: int, n: int, *, promised: bool = True) -> list[Case]:
    k = hl.kernels

    def inputs(rng: np.random.Generator) -> Arrays:
        images = {name: normal(rng, rows, n) for name in ("x", "dy")}
        return images | {"w": normal(rng, n), "b": normal(rng, n)}

    def layer(a: Arrays) -> Call:
        return lambda: k.layer_norm(a["x"], (n,), a["w"], a["b"], return_stats=True)[0]

    def layer_backward(a: Arrays) -> Call:
        _, mean, rstd = k.layer_norm(a["x"], (n,), a["w"], a["b"], return_stats=True)
        return lambda: k.layer_norm_backward(a["dy"], a["x"], a["w"], mean, rstd)[0]

    def rms(a: Arrays) -> Call:
        return lambda: k.rms_norm(a["x"], (n,), a["w"], eps=1e-5, return_stats=True)[0]

    def rms_backward(a: Arrays) -> Call:
        _, rstd = k.rms_norm(a["x"], (n,), a["w"], eps=1e-5, return_stats=True)
        return lambda: k.rms_norm_backward(a["dy"], a["x"], a["w"], rstd)[0]

    whole = 4.0 * rows * n
    table: list[tuple[str, float, dict[str, Build]]] = []
    for name, ours, ours_backward, numpy, torch in (
        ("layer_norm", layer, layer_backward, _numpy_layer, _torch_layer),
        ("rms_norm", rms, rms_backward, _numpy_rms, _torch_rms),
    ):
        forward = torch_call(_torch_forward(torch))
        table.append((f"{name} forward", 2, {"hotloop": ours, "numpy": numpy, "torch": forward}))
        backward = torch_call(_torch_backward(torch))
        table.append((f"{name} backward", 3, {"hotloop": ours_backward, "torch": backward}))
    return [
        Case(
            family="norm",
            name=f"{name} of ({rows}, {n}) f32",
            inputs=inputs,
            contenders=contenders,
            bytes=tensors * whole,
            ceiling="copy" if whole > 4e6 else "",
            target=Target("torch", 1.5) if promised else None,
            quick=whole < 1e5,
        )
        for name, tensors, contenders in table
    ]


CASES = [
    *_batch(32, 64, 112),
    *_batch(32, 256, 14),
    *_batch(32, 64, 112, promised=False, nchw=True),
    *_batch(32, 256, 14, promised=False, nchw=True),
    *_batch(8, 16, 8, promised=False),
    *_rows(4096, 768),
    *_rows(256, 1024),
    *_rows(32, 128, promised=False),
]
