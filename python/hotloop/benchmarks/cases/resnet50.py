"""Every convolution of ResNet-50 v1.5 in three directions, and the network: only when asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target, normal
from ._rivals import torch_call
from .conv import Layer, Targets, directions, from_nchw

BY_NAME_ONLY = True  # 160 rows

_EACH = Target("torch", 1.0, 0.88)
_TARGETS: Targets = (_EACH, _EACH, _EACH)
_MEANS = (("forward", 1.2), ("backward input", 1.3), ("backward weight", 1.6))

# Channels, size, outputs, kernel, stride, padding.
_SHAPES = (
    (3, 224, 64, 7, 2, 3),
    (64, 56, 256, 1, 1, 0),
    (64, 56, 64, 1, 1, 0),
    (64, 56, 64, 3, 1, 1),
    (256, 56, 64, 1, 1, 0),
    (256, 56, 512, 1, 2, 0),
    (256, 56, 128, 1, 1, 0),
    (128, 56, 128, 3, 2, 1),
    (128, 28, 512, 1, 1, 0),
    (512, 28, 128, 1, 1, 0),
    (128, 28, 128, 3, 1, 1),
    (512, 28, 1024, 1, 2, 0),
    (512, 28, 256, 1, 1, 0),
    (256, 28, 256, 3, 2, 1),
    (256, 14, 1024, 1, 1, 0),
    (1024, 14, 256, 1, 1, 0),
    (256, 14, 256, 3, 1, 1),
    (1024, 14, 2048, 1, 2, 0),
    (1024, 14, 512, 1, 1, 0),
    (512, 14, 512, 3, 2, 1),
    (512, 7, 2048, 1, 1, 0),
    (2048, 7, 512, 1, 1, 0),
    (512, 7, 512, 3, 1, 1),
)

CASES = [
    replace(case, mean=(f"layers of ResNet-50, batch {batch}, {name}", Target("torch", ratio)))
    for batch in (1, 8)
    for shape in _SHAPES
    for case, (name, ratio) in zip(
        directions(Layer(batch, *shape, targets=_TARGETS), "resnet50"), _MEANS
    )
]
_NCHW = ("layers of ResNet-50, batch 8, forward from NCHW", Target("torch", 1.2))
CASES += [replace(from_nchw(Layer(8, *shape), "resnet50"), mean=_NCHW) for shape in _SHAPES]


# ---- the network ---------------------------------------------------------------------------------

_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride
_FLOPS = 8.17e9  # of one image forward


def network(nn: Any) -> Any:
    """ResNet-50 v1.5 from the layers of `nn`: ours or PyTorch's."""

    class Bottleneck(nn.Module):  # type: ignore[misc]
        def __init__(self, channels: int, width: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(channels, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.BatchNorm2d(4 * width),
            )
            self.relu = nn.ReLU()
            self.aside = nn.Sequential()
            if stride > 1 or channels != 4 * width:
                self.aside = nn.Sequential(
                    nn.Conv2d(channels, 4 * width, 1, stride=stride, bias=False),
                    nn.BatchNorm2d(4 * width),
                )

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.aside(x))

    layers = [nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    channels = 64
    for width, blocks, stride in _STAGES:
        for block in range(blocks):
            layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def _step(nn: Any, optim: Any, x: Any, labels: Any, **how: Any) -> Call:
    model = network(nn)
    model.train()
    if how:
        model = model.to(**how)
    optimizer = optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    loss_of = nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model(x), labels).backward()
        optimizer.step()

    return step


def _forward(nn: Any, x: Any, **how: Any) -> Call:
    model = network(nn)
    model.eval()
    if how:
        model = model.to(**how)
    return lambda: model(x)


def _ours(training: bool) -> Build:
    def build(a: Arrays) -> Call:
        hl.seed(0)
        x = hl.from_numpy(np.ascontiguousarray(a["x"].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
        if training:
            return _step(hl.nn, hl.optim, x, hl.from_numpy(a["labels"]))
        call = _forward(hl.nn, x)

        def forward() -> None:
            with hl.no_grad():
                call()

        return forward

    return build


def _torch(training: bool, memory_format: str) -> Build:
    def make(torch: Any, t: dict[str, Any]) -> Call:
        how = {"memory_format": getattr(torch, memory_format)}
        x = t["x"].contiguous(**how)
        if not training:
            return _forward(torch.nn, x, **how)
        with torch.enable_grad():
            step = _step(torch.nn, torch.optim, x, t["labels"], **how)

        def training_step() -> None:
            with torch.enable_grad():
                step()

        return training_step

    return torch_call(make)


def _network(batch: int, training: bool) -> Case:
    return Case(
        family="resnet50",
        name=f"the network, batch {batch}, {'training step' if training else 'forward'}",
        inputs=lambda rng: {
            "x": normal(rng, batch, 3, 224, 224),
            "labels": rng.integers(0, 1000, batch),
        },
        contenders={
            "hotloop": _ours(training),
            "torch": {
                "NCHW": _torch(training, "contiguous_format"),
                "channels-last": _torch(training, "channels_last"),
            },
        },
        flops=_FLOPS * batch * (3 if training else 1),
        ceiling="fma",
        compare=False,  # weights are drawn by each library
        target=Target("torch", 1.5 if training else 1.2),
    )


CASES += [_network(8, training) for training in (False, True)]
