"""Every convolution of ResNet-50 v1.5 in three directions, and the network: only when asked for.

Promised are also the geometric means of the layers over PyTorch: 1.2, 1.3 and 1.6.
"""

from __future__ import annotations

from ..case import Target
from .conv import Layer, Targets, directions, from_nchw

BY_NAME_ONLY = True  # 160 rows

_EACH = Target("torch", 1.0, 0.88)
_TARGETS: Targets = (_EACH, _EACH, _EACH)

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
    case
    for batch in (1, 8)
    for shape in _SHAPES
    for case in directions(Layer(batch, *shape, targets=_TARGETS), "resnet50")
]
CASES += [from_nchw(Layer(8, *shape), "resnet50", Target("torch", 1.2, 0.88)) for shape in _SHAPES]
