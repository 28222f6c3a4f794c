"""`fit`, `evaluate` and `predict`: the loop everybody writes, with its usual mistakes left out.

Averages weigh samples, not batches; `evaluate` and `predict` never run in training mode and record
nothing; gradients are dropped before each step; Ctrl-C never leaves half a step behind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from hotloop import metrics as metrics_module
from hotloop.autograd import no_grad
from hotloop.creation import from_numpy
from hotloop.data import DataLoader, TensorDataset
from hotloop.metrics import Mean, Metric
from hotloop.nn.module import Module
from hotloop.nn.packing import packed_weights
from hotloop.tensor import Tensor
from hotloop.train.batches import as_batches, pairs, rows, tensor_of
from hotloop.train.history import History
from hotloop.train.interrupt import InterruptShield
from hotloop.train.progress import make_progress

__all__ = ["Callback", "evaluate", "fit", "predict"]

Callback = Callable[[dict[str, Any]], Any]
Loss = Callable[[Tensor, Tensor], Tensor]
METRICS: dict[str, Callable[[], Metric]] = {
    "accuracy": metrics_module.Accuracy,
    "precision": metrics_module.Precision,
    "recall": metrics_module.Recall,
    "f1": metrics_module.F1,
    "confusion_matrix": metrics_module.ConfusionMatrix,
}


def fit(
    model: Any,
    data: Any,
    *,
    loss: Loss,
    optimizer: Any,
    epochs: int = 1,
    validation: Any = None,
    metrics: Sequence[str | Metric] = (),
    callbacks: Sequence[Callback] = (),
    progress: bool | str = True,
    batch_size: int = 32,
) -> History:
    """Trains a model.

    Args:
        model: a module.
        data: a `DataLoader`, a dataset, a pair `(x, y)`, or an iterable of pairs that can be gone
            through once per epoch. A pair or a dataset is shuffled.
        loss: a module or function of (output, target) that gives one number: the mean over the
            batch (or the sum, if its `reduction` is "sum").
        optimizer: over the model's parameters.
        epochs: how often to go through the data.
        validation: data to evaluate after each epoch; its numbers are called `val_...`.
        metrics: names ("accuracy", "precision", "recall", "f1") or `Metric` objects.
        callbacks: functions of a dict, called after each batch (`event` is "batch") and each epoch
            ("epoch") with epoch, epochs, batch, batches, samples, seconds, samples_per_second, loss
            and the metrics so far. One that returns True ends the training.
        progress: whether to show progress on stderr; a string names what the speed counts.
        batch_size: for a pair or a dataset.

    Returns:
        The history: one record per epoch. `loss` and the metrics are running averages
        over the epoch in training mode; `val_...` is measured after it in evaluation mode.

    Raises:
        ValueError: no data, an empty batch, epochs < 0, a loss that is not one number.
        TypeError: loss is no function, optimizer has no steps.
        FloatingPointError: the loss is no longer finite; the weights are those before that step.
        KeyboardInterrupt: with the weights as some whole number of steps left them.
    """
    if isinstance(epochs, bool) or epochs != int(epochs) or epochs < 0:
        raise ValueError(f"fit: epochs must be a whole number >= 0, got {epochs!r}")
    if not callable(loss):
        raise TypeError(
            "fit: loss must be a module or a function of (output, target), such as "
            f"nn.CrossEntropyLoss(), got {loss!r}"
        )
    if not hasattr(optimizer, "step"):
        raise TypeError(
            "fit: optimizer must be one over the model's parameters, such as "
            f"optim.Adam(model.parameters(), lr=1e-3), got {optimizer!r}"
        )
    batches = as_batches("fit", data, batch_size, shuffle=True)
    if validation is not None:
        validation = as_batches("fit", validation, max(batch_size, 256), shuffle=False)
    trackers = _trackers("fit", metrics)
    history = History()
    listeners: list[Callback] = list(callbacks)
    display = (
        make_progress(progress if isinstance(progress, str) else "samples") if progress else None
    )
    if display is not None:
        listeners.insert(0, display)
    with InterruptShield() as shield, _mode(model, training=True):
        try:
            for epoch in range(1, int(epochs) + 1):
                total = len(batches) if isinstance(batches, Sized) else None
                info = {"event": "epoch", "epoch": epoch, "epochs": int(epochs), "batches": total}
                stop = _train_epoch(
                    model, batches, loss, optimizer, trackers, listeners[:], info, shield
                )
                if validation is not None:
                    found = evaluate(model, validation, loss=loss, metrics=_fresh(metrics))
                    info.update({f"val_{name}": value for name, value in found.items()})
                info["event"] = "epoch"
                history.append({k: v for k, v in info.items() if k not in HIDDEN})
                if _tell(listeners, info) or stop:
                    break
        finally:
            if display is not None:
                display.close()
    return history


HIDDEN = ("event", "epochs", "batch", "batches")


def _train_epoch(
    model: Any,
    batches: Iterable[Any],
    loss: Loss,
    optimizer: Any,
    trackers: dict[str, Metric],
    listeners: list[Callback],
    info: dict[str, Any],
    shield: InterruptShield,
) -> bool:
    """One pass over the data; fills `info`. True when a listener asked to stop."""
    mean = Mean()
    for tracker in trackers.values():
        tracker.reset()
    stop = False
    start = time.perf_counter()
    samples = index = 0
    for index, (x, y, count) in enumerate(pairs("fit", batches), start=1):
        optimizer.zero_grad()
        output = model(x)
        value = loss(output, y)
        number = _number("fit", value)
        if not math.isfinite(number):
            raise FloatingPointError(
                f"fit: the loss must be finite, got {number} at epoch {info['epoch']}, batch "
                f"{index}; lower the learning rate, or look for NaN in the data"
            )
        value.backward()
        shield.hold()
        try:
            optimizer.step()
        finally:
            shield.release()
        samples += count
        mean.update(number / (count if _sums(loss) else 1), count)
        for tracker in trackers.values():
            tracker.update(output, y)
        if listeners:
            info.update(event="batch", batch=index, samples=samples)
            _fill(info, mean, trackers, samples, time.perf_counter() - start)
            if _tell(listeners, info):
                stop = True
                break
    if not index:
        raise ValueError(
            "fit: the data must give at least one batch in every epoch, got none; "
            "pass a list or a DataLoader instead of a generator that is used up"
        )
    info.update(batch=index, samples=samples)
    _fill(info, mean, trackers, samples, time.perf_counter() - start)
    return stop


def _fill(
    info: dict[str, Any], mean: Mean, trackers: dict[str, Metric], samples: int, seconds: float
) -> None:
    info["seconds"] = seconds
    info["loss"] = mean.compute()
    for name, tracker in trackers.items():
        info[name] = tracker.compute()
    info["samples_per_second"] = samples / max(seconds, 1e-9)


def _tell(listeners: list[Callback], info: dict[str, Any]) -> bool:
    """Each listener gets a dict of its own; True when one of them returned True."""
    return any([listener(dict(info)) is True for listener in listeners])


def evaluate(
    model: Any,
    data: Any,
    *,
    loss: Loss | None = None,
    metrics: Sequence[str | Metric] | None = None,
    batch_size: int = 256,
) -> dict[str, Any]:
    """Measures a model in evaluation mode, without recording.

    Args:
        model, data, loss, metrics: as for `fit`; data is taken in order. With neither a loss nor
            metrics, the accuracy is measured.
        batch_size: for a pair or a dataset.

    Returns:
        The loss, if one is given, and each metric by its name, over all samples alike.

    Raises:
        ValueError: no data, or an empty batch.
    """
    mean = Mean()
    if metrics is None:
        metrics = ["accuracy"] if loss is None else []
    trackers = _trackers("evaluate", metrics)
    batches = as_batches("evaluate", data, batch_size, shuffle=False)
    for tracker in trackers.values():
        tracker.reset()
    samples = 0
    with _mode(model, training=False), no_grad():
        for x, y, count in pairs("evaluate", batches):
            output = model(x)
            if loss is not None:
                number = _number("evaluate", loss(output, y))
                mean.update(number / (count if _sums(loss) else 1), count)
            for tracker in trackers.values():
                tracker.update(output, y)
            samples += count
    if not samples:
        raise ValueError("evaluate: the data must give at least one batch, got none; check it")
    result: dict[str, Any] = {} if loss is None else {"loss": mean.compute()}
    result.update({name: tracker.compute() for name, tracker in trackers.items()})
    return result


def predict(model: Any, data: Any, *, batch_size: int = 256) -> Tensor:
    """The model's outputs in evaluation mode, without recording, one row per sample.

    Args:
        model: a module that gives one tensor.
        data: inputs as one tensor or array, or an iterable of batches: inputs, or pairs of which
            the first part is taken.
        batch_size: for one tensor or array.

    Raises:
        ValueError: no data, or an empty batch.
    """
    if hasattr(data, "shape"):
        tensor = tensor_of(data)
        rows("predict", tensor, 0)
        data = DataLoader(TensorDataset(tensor), batch_size)
    batches = as_batches("predict", data, batch_size, shuffle=False)
    parts = []
    with _mode(model, training=False), no_grad(), _packed(model):
        for index, batch in enumerate(batches):
            x = tensor_of(batch[0] if isinstance(batch, tuple | list) else batch)
            rows("predict", x, index)
            parts.append(model(x).detach().numpy())
    if not parts:
        raise ValueError("predict: the data must give at least one batch, got none; check it")
    return from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _packed(model: Any) -> AbstractContextManager[None]:
    """Weights packed once for all batches, where the model is one of ours."""
    return packed_weights(model) if isinstance(model, Module) else nullcontext()


@contextmanager
def _mode(model: Any, *, training: bool) -> Iterator[None]:
    """Sets the mode of a model, and gives every module its own mode back at the end."""
    modules = list(model.modules()) if hasattr(model, "modules") else []
    before = [module.training for module in modules]
    if modules:
        model.train(training)
    try:
        yield
    finally:
        for module, mode in zip(modules, before):
            module.training = mode


def _fresh(metrics: Sequence[str | Metric]) -> list[str | Metric]:
    """The same metrics with counts of their own, for validation inside of training."""
    import copy

    return [m if isinstance(m, str) else copy.deepcopy(m) for m in metrics]


def _trackers(op: str, metrics: Sequence[str | Metric]) -> dict[str, Metric]:
    if isinstance(metrics, str):
        metrics = [metrics]
    found: dict[str, Metric] = {}
    for metric in metrics:
        if isinstance(metric, str):
            if metric not in METRICS:
                raise ValueError(
                    f"{op}: a metric's name must be one of {', '.join(METRICS)}, got {metric!r}; "
                    "or pass a Metric object"
                )
            metric = METRICS[metric]()
        if metric.name in found or metric.name == "loss":
            raise ValueError(f"{op}: metrics must have different names, got {metric.name!r} again")
        found[metric.name] = metric
    return found


def _sums(loss: Any) -> bool:
    return getattr(loss, "reduction", "mean") == "sum"


def _number(op: str, value: Any) -> float:
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1:
        raise ValueError(
            f"{op}: the loss must be one number, got shape {shape}; "
            'use reduction="mean", or take its mean()'
        )
    return float(value.item())
