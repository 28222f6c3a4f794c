"""Convolutions of common networks, in the three directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target, normal
from ..placement import Placement
from ._rivals import onnx_call, torch_call

# Forward, backward to the input, backward to the weights.
Targets = tuple[Target | None, Target | None, Target | None]
_NONE: Targets = (None, None, None)
_DEMO: Targets = (Target("torch", 0.8), None, None)


def _each(ratio: float, share: float) -> Targets:
    target = Target("torch", ratio, share)
    return (target, target, target)


_FIRST = _each(1.5, 0.85)
_LARGE = _each(4.0, 0.85)
_DEPTHWISE = _each(1.5, 0.85)
_SLOW_INPUT: Targets = (_FIRST[0], Target("torch", 10.0, 0.85), _FIRST[2])


@dataclass(frozen=True)
class Layer:
    batch: int
    channels: int
    size: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    targets: Targets = _NONE
    quick: bool = False

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def name(self) -> str:
        text = (
            f"{self.batch}x{self.channels}@{self.size}->{self.outputs} {self.kernel}x{self.kernel}"
        )
        text += f"/{self.stride}" if self.stride > 1 else ""
        return text + (f" in {self.groups} groups" if self.groups > 1 else "")

    def flops(self) -> float:
        """Products inside the image: a tap that falls on padding is no work."""
        taps = sum(
            0 <= position * self.stride + tap - self.padding < self.size
            for position in range(self.out_size)
            for tap in range(self.kernel)
        )
        return 2.0 * self.batch * self.outputs * self.channels // self.groups * taps * taps

    def inputs(self, rng: np.random.Generator) -> Arrays:
        image = (self.batch, self.channels, self.size, self.size)
        result = (self.batch, self.outputs, self.out_size, self.out_size)
        return {
            "x": normal(rng, *image),
            "w": normal(rng, self.outputs, self.channels // self.groups, self.kernel, self.kernel),
            "dy": normal(rng, *result),
            "how": {"stride": self.stride, "padding": self.padding, "groups": self.groups},
        }


# The demo's layers first, then those of the notes' table, then depthwise and grouped ones.
LAYERS = (
    Layer(32, 1, 8, 32, 3, 1, 1, targets=_DEMO, quick=True),
    Layer(32, 32, 8, 64, 3, 1, 1, targets=_DEMO),
    Layer(100, 32, 16, 64, 3, 1, 1, targets=_FIRST),
    Layer(100, 3, 32, 32, 3, 1, 1, targets=_SLOW_INPUT),
    Layer(32, 1, 28, 32, 3, targets=_FIRST),
    Layer(32, 3, 224, 32, 3, targets=_LARGE),
    Layer(32, 32, 111, 64, 3, targets=_FIRST),
    Layer(32, 64, 54, 128, 3, targets=_FIRST),
    Layer(8, 3, 224, 64, 7, 2, 3),
    Layer(8, 64, 56, 64, 1),
    Layer(8, 64, 56, 64, 3, 1, 1),
    Layer(8, 256, 14, 256, 3, 1, 1),
    Layer(32, 32, 112, 32, 3, 1, 1, 32, _DEPTHWISE),
    Layer(32, 64, 112, 64, 3, 2, 1, 64, _DEPTHWISE),
    Layer(32, 128, 56, 128, 3, 1, 1, 128, _DEPTHWISE),
    Layer(32, 128, 56, 128, 3, 2, 1, 128, _DEPTHWISE),
    Layer(32, 256, 28, 256, 3, 1, 1, 256, _DEPTHWISE),
    Layer(32, 512, 14, 512, 3, 1, 1, 512, _DEPTHWISE),
    Layer(32, 1024, 7, 1024, 3, 1, 1, 1024, _DEPTHWISE),
    Layer(8, 128, 28, 128, 3, 1, 1, 4),
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


def torch_variants(make: Any) -> dict[str, Build]:
    """NCHW and channels-last; the better one counts."""

    def of(memory_format: str) -> Build:
        def prepare(torch: Any, t: dict[str, Any]) -> Call:
            kind = getattr(torch, memory_format)
            images = {k: v for k, v in t.items() if getattr(v, "ndim", 0) == 4}
            moved = {k: v.contiguous(memory_format=kind) for k, v in images.items()}
            call: Call = make(torch, {**t, **moved})
            return call

        return torch_call(prepare)

    return {"NCHW": of("contiguous_format"), "channels-last": of("channels_last")}


def channels_last(image: np.ndarray, placement: Placement | None = None) -> np.ndarray:
    """The same axes over memory in our order, as every result of ours lies.

    On whole lines, like PyTorch's copies; images of one call take turns by one placement.
    """
    dense = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
    moved: np.ndarray = (placement or Placement()).value(dense)
    return moved.transpose(0, 3, 1, 2)


def directions(layer: Layer, family: str = "conv") -> list[Case]:
    """Forward and both gradients; x and dy channels-last for us, in both formats for PyTorch."""
    k = hl.kernels

    def forward(a: Arrays) -> Call:
        x = channels_last(a["x"])
        return lambda: k.conv2d(x, a["w"], **a["how"])

    def backward_input(a: Arrays) -> Call:
        dy = channels_last(a["dy"])
        return lambda: k.conv2d_backward_input(dy, a["w"], a["x"].shape, **a["how"])

    def backward_weight(a: Arrays) -> Call:
        placement = Placement()
        x, dy = channels_last(a["x"], placement), channels_last(a["dy"], placement)
        return lambda: k.conv2d_backward_weight(dy, x, a["w"].shape, **a["how"])

    shared: dict[str, Any] = {
        "family": family,
        "inputs": layer.inputs,
        "flops": layer.flops(),
        "bytes": 4.0
        * (
            layer.batch * layer.channels * layer.size**2
            + layer.outputs * layer.channels // layer.groups * layer.kernel**2
            + layer.batch * layer.outputs * layer.out_size**2
        ),
        "ceiling": "copy" if layer.groups == layer.channels > 1 else "fma",
        "rtol": 2e-4,
    }
    pads = [layer.padding] * 4
    return [
        Case(
            name=f"forward {layer.name}",
            contenders={
                "hotloop": forward,
                **({"numpy": _forward_numpy} if layer.groups == 1 else {}),
                "torch": torch_variants(
                    lambda torch, t: lambda: torch.nn.functional.conv2d(t["x"], t["w"], **t["how"])
                ),
                "onnxruntime": onnx_call(
                    "Conv",
                    ("x", "w"),
                    {"strides": [layer.stride] * 2, "pads": pads, "group": layer.groups},
                ),
            },
            target=layer.targets[0],
            quick=layer.quick,
            **shared,
        ),
        Case(
            name=f"backward input {layer.name}",
            contenders={
                "hotloop": backward_input,
                "torch": torch_variants(
                    lambda torch, t: (
                        lambda: torch.nn.grad.conv2d_input(
                            t["x"].shape, t["w"], t["dy"], **t["how"]
                        )
                    )
                ),
            },
            target=layer.targets[1],
            **shared,
        ),
        Case(
            name=f"backward weight {layer.name}",
            contenders={
                "hotloop": backward_weight,
                "torch": torch_variants(
                    lambda torch, t: (
                        lambda: torch.nn.grad.conv2d_weight(
                            t["x"], t["w"].shape, t["dy"], **t["how"]
                        )
                    )
                ),
            },
            target=layer.targets[2],
            **shared,
        ),
    ]


def from_nchw(layer: Layer, family: str = "conv") -> Case:
    """Forward from NCHW-contiguous memory, against PyTorch in the same format."""
    return Case(
        family=family,
        name=f"forward from NCHW memory {layer.name}",
        contenders={
            "hotloop": lambda a: lambda: hl.kernels.conv2d(a["x"], a["w"], **a["how"]),
            "torch": torch_call(
                lambda torch, t: lambda: torch.nn.functional.conv2d(t["x"], t["w"], **t["how"])
            ),
        },
        inputs=layer.inputs,
        flops=layer.flops(),
        ceiling="fma",
        rtol=2e-4,
    )


CASES = [case for layer in LAYERS for case in directions(layer)]
CASES += [from_nchw(LAYERS[i]) for i in (2, 8, 9, 10, 11)]
