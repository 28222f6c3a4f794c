"""Cross-entropy with its gradient, as a training step wants it."""

from __future__ import annotations

from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Call, Case, Target, normal
from ._rivals import torch_call


def _ours(arrays: Arrays) -> Call:
    logits, labels = arrays["logits"], arrays["labels"]
    return lambda: hl.kernels.cross_entropy_with_grad(logits, labels)[1]


def _numpy(arrays: Arrays) -> Call:
    logits, labels = arrays["logits"], arrays["labels"]
    rows = np.arange(len(labels))

    def call() -> Any:
        gradient = np.exp(logits - logits.max(axis=1, keepdims=True))
        gradient /= gradient.sum(axis=1, keepdims=True)
        _ = -np.log(gradient[rows, labels]).mean()
        gradient[rows, labels] -= 1
        gradient /= len(labels)
        return gradient

    return call


def _torch(torch: Any, t: dict[str, Any]) -> Call:
    logits = t["logits"].requires_grad_()

    def call() -> Any:
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(logits, t["labels"])
            return torch.autograd.grad(loss, logits)[0]

    return call


def _with_gradient(rows: int, classes: int, promised: float = 0.0) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        return {"logits": normal(rng, rows, classes), "labels": rng.integers(0, classes, rows)}

    return Case(
        family="loss",
        name=f"cross-entropy and gradient ({rows}, {classes}) f32",
        inputs=inputs,
        contenders={"hotloop": _ours, "numpy": _numpy, "torch": torch_call(_torch)},
        bytes=12.0 * rows * classes,
        ceiling="copy" if rows * classes >= 1_000_000 else "",
        rtol=1e-4,
        target=Target("torch", promised) if promised else None,
        quick=rows * classes < 10_000,
    )


def _pair(name: str) -> Case:
    """A loss of 2^20 pairs and its gradient."""

    def inputs(rng: np.random.Generator) -> Arrays:
        return {"x": normal(rng, 1 << 20), "t": rng.random(1 << 20, dtype=np.float32)}

    def ours(arrays: Arrays) -> Call:
        both, x, t = getattr(hl.kernels, f"{name}_with_grad"), arrays["x"], arrays["t"]
        return lambda: both(x, t)[1]

    def theirs(torch: Any, t: dict[str, Any]) -> Call:
        x = t["x"].requires_grad_()

        def call() -> Any:
            with torch.enable_grad():
                loss = getattr(torch.nn.functional, name)(x, t["t"])
                return torch.autograd.grad(loss, x)[0]

        return call

    return Case(
        family="loss",
        name=f"{name} and gradient, 2^20 f32",
        inputs=inputs,
        contenders={"hotloop": ours, "torch": torch_call(theirs)},
        bytes=12.0 * (1 << 20),
        rtol=1e-4,
    )


CASES = [
    _with_gradient(32, 10),
    _with_gradient(128, 10, 5.0),
    _with_gradient(4096, 1000, 3.0),
    _with_gradient(256, 50257, 6.0),
    *(_pair(name) for name in ("huber_loss", "binary_cross_entropy_with_logits", "kl_div")),
]
