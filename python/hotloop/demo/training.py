"""The demo's job: data, network, training; all of it follows from one seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import hotloop as hl
from hotloop.creation import from_numpy
from hotloop.data import DataLoader, Dataset, datasets, stratified_split, transforms
from hotloop.data.random import epoch_generator
from hotloop.demo.command import EPOCHS
from hotloop.metrics import confusion_matrix
from hotloop.tensor import Tensor
from hotloop.train import History, evaluate, fit, predict

__all__ = ["Outcome", "build_network", "train_digits", "training_flops", "weights_hash"]

Array = np.ndarray[Any, Any]
TEST_SIZE = 360
BATCH_SIZE = 32
LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Outcome:
    """What one training run gave."""

    model: Any
    history: History
    test_images: Array
    test_labels: Array
    predictions: Array
    accuracy: float
    confusion: Array
    flops_per_image: int
    weights_hash: str


class Digits(Dataset):
    """Images that are turned, scaled and shifted a little, differently each time they are taken."""

    def __init__(self, images: Array, labels: Array, seed: int) -> None:
        self.images = images
        self.labels = labels
        self.random = epoch_generator(seed, 2**32)  # no epoch has this number

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Array) -> list[Tensor]:
        """A batch at these positions."""
        images = transforms.random_affine(
            self.images[indices], rotation=0.1, scale=0.05, shift=0.5, seed=self.random
        )
        return [from_numpy(images), from_numpy(self.labels[indices])]


def build_network() -> Any:
    """Two convolutions, a pool and two dense layers: 75 thousand weights, channels 1, 16, 32."""
    nn = hl.nn
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(32 * 4 * 4, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def train_digits(
    seed: int = 0,
    epochs: int = EPOCHS,
    *,
    progress: bool | str = False,
    callbacks: Sequence[Callable[[dict[str, Any]], Any]] = (),
) -> Outcome:
    """Trains on 1,437 digits and tests on the 360 others, the same split for every seed.

    Args:
        seed: for weights, dropout, order and distortions.
        epochs: how often to go through the data; the learning rate falls to 0 over them.
        progress, callbacks: see `hl.train.fit`.
    """
    images, labels = datasets.load_digits()
    train, test = stratified_split(labels, TEST_SIZE, seed=0)
    hl.seed(seed)
    model = build_network()
    loader = DataLoader(
        Digits(images[train], labels[train], seed), BATCH_SIZE, shuffle=True, generator=seed
    )
    optimizer = hl.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    steps = max(epochs * len(loader), 1)

    def cosine(info: dict[str, Any]) -> None:
        done = (info["epoch"] - 1) * len(loader) + info["batch"]
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * done / steps))

    history = fit(
        model,
        loader,
        loss=hl.nn.CrossEntropyLoss(),
        optimizer=optimizer,
        epochs=epochs,
        validation=(images[test], labels[test]),
        metrics=["accuracy"],
        callbacks=[cosine, *callbacks],
        progress=progress,
    )
    predictions = np.argmax(predict(model, images[test]).numpy(), axis=1)
    return Outcome(
        model=model,
        history=history,
        test_images=images[test],
        test_labels=labels[test],
        predictions=predictions,
        accuracy=evaluate(model, (images[test], labels[test]))["accuracy"],
        confusion=confusion_matrix(predictions, labels[test], num_classes=10),
        flops_per_image=training_flops(model, images.shape[1:]),
        weights_hash=weights_hash(model),
    )


def training_flops(model: Any, shape: tuple[int, ...]) -> int:
    """Floating-point operations of one image's way forth and back through the products.

    Convolutions with 3 x 3 taps and padding 1; taps on the padding are no work. The way back costs
    as much again for the weights and for the input, which the first layer does not need.
    """
    flops = 0
    first = True
    _, height, width = shape
    for layer in model.modules():
        if isinstance(layer, hl.nn.Conv2d):
            outputs, inputs = layer.weight.shape[:2]
            work = 2 * inputs * outputs * (3 * height - 2) * (3 * width - 2)
        elif isinstance(layer, hl.nn.MaxPool2d):
            height, width = height // 2, width // 2
            continue
        elif isinstance(layer, hl.nn.Linear):
            work = 2 * math.prod(layer.weight.shape)
        else:
            continue
        flops += work * (2 if first else 3)
        first = False
    return flops


def weights_hash(model: Any) -> str:
    """SHA-256 over the names and the bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + b"\0")
        digest.update(np.asarray(tensor.detach().numpy(), order="C").tobytes())
    return digest.hexdigest()
