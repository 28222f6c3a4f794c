"""Convolutions with what follows them, by Winograd's algorithm, and of bfloat16."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target, normal
from ._rivals import torch_call
from .conv import Layer, channels_last, torch_variants

# The demo's layer and the first of a small network, forward and a training step through them.
POOLED = (Layer(32, 16, 8, 32, 3, 1, 1), Layer(32, 1, 28, 32, 3), Layer(32, 64, 56, 64, 3, 1, 1))
WINOGRAD = tuple(
    Layer(8, channels, size, channels, 3, 1, 1)
    for channels, size in ((64, 56), (128, 28), (256, 14), (64, 14), (128, 56), (256, 28))
)
BF16 = (Layer(8, 64, 56, 64, 3, 1, 1), Layer(8, 256, 14, 256, 3, 1, 1), Layer(8, 64, 56, 256, 1))


def _pooled(layer: Layer) -> list[Case]:
    def inputs(rng: np.random.Generator) -> Arrays:
        arrays = layer.inputs(rng)
        return {**arrays, "b": normal(rng, layer.outputs)}

    def fused(a: Arrays) -> Call:
        x = channels_last(a["x"])
        return lambda: hl.kernels.conv2d_relu_max_pool2d(x, a["w"], a["b"], **a["how"])

    def plain(a: Arrays) -> Call:
        x, k = channels_last(a["x"]), hl.kernels
        return lambda: k.max_pool2d(k.conv2d(x, a["w"], a["b"], activation="relu", **a["how"]), 2)

    def torch(torch: Any, t: dict[str, Any]) -> Call:
        f = torch.nn.functional
        return lambda: f.max_pool2d(f.relu(f.conv2d(t["x"], t["w"], t["b"], **t["how"])), 2)

    def training(together: bool) -> Build:
        def build(a: Arrays) -> Call:
            nn = hl.nn
            conv: Any = nn.Conv2d(
                layer.channels, layer.outputs, layer.kernel, padding=layer.padding
            )
            with hl.no_grad():
                conv.weight.copy_(hl.from_numpy(a["w"]))
                conv.bias.copy_(hl.from_numpy(a["b"]))
            # A Sequential around the ReLU keeps the layers apart.
            relu = nn.ReLU() if together else nn.Sequential(nn.ReLU())
            net = nn.Sequential(conv, relu, nn.MaxPool2d(2))
            x = hl.from_numpy(channels_last(a["x"]))

            def step() -> Any:
                conv.weight.grad = conv.bias.grad = None
                net(x).sum().backward()
                return conv.weight.grad.numpy()

            return step

        return build

    shared: dict[str, Any] = {"family": "conv_variants", "inputs": inputs, "rtol": 2e-4}
    return [
        Case(
            name=f"conv, ReLU, max pool {layer.name}",
            contenders={"hotloop": fused, "plain": plain, "torch": torch_variants(torch)},
            flops=layer.flops(),
            ceiling="fma",
            target=Target("plain", 1.0),
            **shared,
        ),
        Case(
            name=f"conv, ReLU, max pool, training step {layer.name}",
            contenders={"hotloop": training(True), "plain": training(False)},
            flops=2 * layer.flops(),
            ceiling="fma",
            target=Target("plain", 1.0),
            **shared,
        ),
    ]


def _winograd(layer: Layer) -> Case:
    def by(algorithm: Any) -> Build:
        def build(a: Arrays) -> Call:
            x = channels_last(a["x"])
            return lambda: hl.kernels.conv2d(x, a["w"], algorithm=algorithm, **a["how"])

        return build

    def error() -> float:
        """Against float64."""
        a = layer.inputs(np.random.default_rng(0))
        x, w = a["x"][:1], a["w"]
        exact = hl.kernels.conv2d(x.astype(np.float64), w.astype(np.float64), **a["how"])
        found = hl.kernels.conv2d(x, w, algorithm="winograd", **a["how"])
        return float(np.abs(found - exact).max() / np.abs(exact).max())

    return Case(
        family="conv_variants",
        name=f"forward by Winograd {layer.name}",
        inputs=layer.inputs,
        contenders={
            "hotloop": by("winograd"),
            "plain": by("direct"),
            "torch": torch_variants(
                lambda torch, t: lambda: torch.nn.functional.conv2d(t["x"], t["w"], **t["how"])
            ),
        },
        flops=layer.flops(),  # of the direct sum: above the ceiling is possible
        ceiling="fma",
        rtol=2e-4,
        error=error,
        target=Target("plain", 1.5),
    )


def _bf16(layer: Layer) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        ml_dtypes: Any = importlib.import_module("ml_dtypes")
        a = layer.inputs(rng)
        narrow = {n: a[n].astype(ml_dtypes.bfloat16).view(np.int16) for n in ("x", "w")}
        narrow["x"] = channels_last(narrow["x"])
        return {**narrow, "how": a["how"]}

    def ours(a: Arrays) -> Call:
        ml_dtypes: Any = importlib.import_module("ml_dtypes")
        x, w = (a[name].view(ml_dtypes.bfloat16) for name in ("x", "w"))

        def call() -> Any:
            hl.kernels.conv2d(x, w, **a["how"])

        return call

    def plain(a: Arrays) -> Call:
        ml_dtypes: Any = importlib.import_module("ml_dtypes")
        x, w = (a[name].view(ml_dtypes.bfloat16).astype(np.float32) for name in ("x", "w"))

        def call() -> Any:
            hl.kernels.conv2d(x, w, **a["how"])

        return call

    def torch(torch: Any, t: dict[str, Any]) -> Call:
        x, w = (t[name].view(torch.bfloat16) for name in ("x", "w"))
        w = w.contiguous(memory_format=torch.channels_last)

        def call() -> Any:
            torch.nn.functional.conv2d(x, w, **t["how"])

        return call

    return Case(
        family="conv_variants",
        name=f"forward bf16 {layer.name}",
        inputs=inputs,
        contenders={"hotloop": ours, "plain": plain, "torch": torch_call(torch)},
        flops=layer.flops(),
        ceiling="dot_bf16",
        compare=False,  # bits of bf16: both sides round sums of another order
    )


CASES = [case for layer in POOLED for case in _pooled(layer)]
CASES += [_winograd(layer) for layer in WINOGRAD]
if importlib.util.find_spec("ml_dtypes"):
    CASES += [_bf16(layer) for layer in BF16]
