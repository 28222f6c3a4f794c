"""Convolutions of common networks, in the three directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target, normal
from ._rivals import onnx_call, torch_call


@dataclass(frozen=True)
class _Layer:
    batch: int
    channels: int
    size: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    promised: bool = False  # the figure of the forward direction is a target
    quick: bool = False

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def name(self) -> str:
        text = (
            f"{self.batch}x{self.channels}@{self.size}->{self.outputs} {self.kernel}x{self.kernel}"
        )
        return text + (f"/{self.stride}" if self.stride > 1 else "")

    def flops(self) -> float:
        """Products inside the image: a tap that falls on padding is no work."""
        taps = sum(
            0 <= position * self.stride + tap - self.padding < self.size
            for position in range(self.out_size)
            for tap in range(self.kernel)
        )
        return 2.0 * self.batch * self.outputs * self.channels * taps * taps

    def inputs(self, rng: np.random.Generator) -> Arrays:
        image = (self.batch, self.channels, self.size, self.size)
        result = (self.batch, self.outputs, self.out_size, self.out_size)
        return {
            "x": normal(rng, *image),
            "w": normal(rng, self.outputs, self.channels, self.kernel, self.kernel),
            "dy": normal(rng, *result),
            "how": {"stride": self.stride, "padding": self.padding},
        }


# The demo's layers first, then those of the notes' table.
LAYERS = (
    _Layer(32, 1, 8, 32, 3, 1, 1, promised=True, quick=True),
    _Layer(32, 32, 8, 64, 3, 1, 1, promised=True),
    _Layer(100, 32, 16, 64, 3, 1, 1, promised=True),
    _Layer(100, 3, 32, 32, 3, 1, 1),
    _Layer(32, 1, 28, 32, 3),
    _Layer(32, 32, 111, 64, 3),
    _Layer(8, 3, 224, 64, 7, 2, 3),
    _Layer(8, 64, 56, 64, 1),
    _Layer(8, 64, 56, 64, 3, 1, 1),
    _Layer(8, 256, 14, 256, 3, 1, 1),
)


def _forward_numpy(arrays: Arrays) -> Call:
    """Windows as a view and one product: the short way in NumPy."""
    x, w = arrays["x"], arrays["w"]
    stride, padding = arrays["how"]["stride"], arrays["how"]["padding"]

    def call() -> np.ndarray:
        padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(2, 3))
        y = np.tensordot(windows[:, :, ::stride, ::stride], w, ((1, 4, 5), (1, 2, 3)))
        return np.moveaxis(y, 3, 1)

    return call


def _torch_variants(make: Any) -> dict[str, Build]:
    """NCHW and channels-last; the better one counts."""

    def of(memory_format: str) -> Build:
        def prepare(torch: Any, t: dict[str, Any]) -> Call:
            kind = getattr(torch, memory_format)
            moved = {k: v.contiguous(memory_format=kind) for k, v in t.items() if k != "how"}
            call: Call = make(torch, {**moved, "how": t["how"]})
            return call

        return torch_call(prepare)

    return {"NCHW": of("contiguous_format"), "channels-last": of("channels_last")}


def _directions(layer: _Layer) -> list[Case]:
    k = hl.kernels

    def forward(a: Arrays) -> Call:
        return lambda: k.conv2d(a["x"], a["w"], **a["how"])

    def backward_input(a: Arrays) -> Call:
        return lambda: k.conv2d_backward_input(a["dy"], a["w"], a["x"].shape, **a["how"])

    def backward_weight(a: Arrays) -> Call:
        return lambda: k.conv2d_backward_weight(a["dy"], a["x"], a["w"].shape, **a["how"])

    shared: dict[str, Any] = {
        "family": "conv",
        "inputs": layer.inputs,
        "flops": layer.flops(),
        "bytes": 4.0
        * (
            layer.batch * layer.channels * layer.size**2
            + layer.outputs * layer.channels * layer.kernel**2
            + layer.batch * layer.outputs * layer.out_size**2
        ),
        "ceiling": "fma",
        "rtol": 2e-4,
    }
    pads = [layer.padding] * 4
    return [
        Case(
            name=f"forward {layer.name}",
            contenders={
                "hotloop": forward,
                "numpy": _forward_numpy,
                "torch": _torch_variants(
                    lambda torch, t: lambda: torch.nn.functional.conv2d(t["x"], t["w"], **t["how"])
                ),
                "onnxruntime": onnx_call(
                    "Conv", ("x", "w"), {"strides": [layer.stride] * 2, "pads": pads}
                ),
            },
            target=Target("torch", 0.8) if layer.promised else None,
            quick=layer.quick,
            **shared,
        ),
        Case(
            name=f"backward input {layer.name}",
            contenders={
                "hotloop": backward_input,
                "torch": _torch_variants(
                    lambda torch, t: (
                        lambda: torch.nn.grad.conv2d_input(
                            t["x"].shape, t["w"], t["dy"], **t["how"]
                        )
                    )
                ),
            },
            **shared,
        ),
        Case(
            name=f"backward weight {layer.name}",
            contenders={
                "hotloop": backward_weight,
                "torch": _torch_variants(
                    lambda torch, t: (
                        lambda: torch.nn.grad.conv2d_weight(
                            t["x"], t["w"].shape, t["dy"], **t["how"]
                        )
                    )
                ),
            },
            **shared,
        ),
    ]


CASES = [case for layer in LAYERS for case in _directions(layer)]
