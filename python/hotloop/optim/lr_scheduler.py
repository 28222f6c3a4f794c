"""Learning rates that follow the epoch, with PyTorch's names and defaults.

`scheduler = CosineAnnealingLR(optimizer, 100)`, then `scheduler.step()` after each epoch. Every
schedule but `ReduceLROnPlateau` is a formula of the epoch, so that the rate of an epoch does not
depend on how it was reached. A learning rate that is an array is changed in place.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsFloat

import numpy as np

from hotloop.optim.optimizer import Optimizer, plain

__all__ = [
    "ConstantLR", "CosineAnnealingLR", "ExponentialLR", "LRScheduler", "LambdaLR", "LinearLR",
    "MultiStepLR", "ReduceLROnPlateau", "StepLR",
]  # fmt: skip


def _set_lr(group: dict[str, Any], value: float) -> None:
    lr = plain(group["lr"])
    if isinstance(lr, np.ndarray):
        lr[...] = value
    else:
        group["lr"] = value


class LRScheduler:
    """Base class: a subclass implements `_factor`, what the initial rate is multiplied with.

    Args:
        optimizer: its groups' rates are the initial ones.
        last_epoch: the epoch to go on from; -1 begins, and sets the rate of epoch 0.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__}: optimizer must be an Optimizer, got "
                f"{type(optimizer).__name__}; pass it before the other arguments"
            )
        self.optimizer = optimizer
        self.base_lrs = [
            float(group.setdefault("initial_lr", float(plain(group["lr"]))))
            for group in optimizer.param_groups
        ]
        self.last_epoch = last_epoch
        self._last_lr: list[float] = []
        self.step()

    def _rate(self, index: int, base: float) -> float:
        return base * self._factor()

    def _factor(self) -> float:
        raise NotImplementedError

    def step(self) -> None:
        """Goes on to the next epoch and sets its rates."""
        self.last_epoch += 1
        self._last_lr = [self._rate(index, base) for index, base in enumerate(self.base_lrs)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr):
            _set_lr(group, rate)

    def get_last_lr(self) -> list[float]:
        """The rates in force, one for each group."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and functions."""
        return {
            name: value
            for name, value in vars(self).items()
            if name != "optimizer" and not callable(value) and name != "lr_lambdas"
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a `state_dict` of the same kind of schedule."""
        vars(self).update(state_dict)


class LambdaLR(LRScheduler):
    """The initial rate times lr_lambda(epoch); one function, or one for each group."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        groups = len(optimizer.param_groups)
        lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(lambdas) != groups:
            raise ValueError(
                f"LambdaLR: lr_lambda must hold {groups} functions, one for each group, got "
                f"{len(lambdas)}"
            )
        self.lr_lambdas = lambdas
        super().__init__(optimizer, last_epoch)

    def _rate(self, index: int, base: float) -> float:
        return base * self.lr_lambdas[index](self.last_epoch)


class StepLR(LRScheduler):
    """Times gamma every step_size epochs."""

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float:
        return float(self.gamma ** (self.last_epoch // self.step_size))


class MultiStepLR(LRScheduler):
    """Times gamma at each of the milestones."""

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float:
        return float(self.gamma ** bisect.bisect_right(self.milestones, self.last_epoch))


class ExponentialLR(LRScheduler):
    """Times gamma every epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float:
        return float(self.gamma**self.last_epoch)


class ConstantLR(LRScheduler):
    """Times factor for the first total_iters epochs."""

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float:
        return self.factor if self.last_epoch < self.total_iters else 1.0


class LinearLR(LRScheduler):
    """From start_factor to end_factor in total_iters epochs: a warm-up."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float:
        share = min(self.last_epoch, self.total_iters) / self.total_iters
        return self.start_factor + (self.end_factor - self.start_factor) * share


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the initial rate to eta_min in T_max epochs, and back (SGDR, 2016)."""

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def _rate(self, index: int, base: float) -> float:
        wave = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return self.eta_min + (base - self.eta_min) * wave


class ReduceLROnPlateau:
    """Times factor when `step(metric)` has seen no better metric for more than patience epochs.

    Args:
        optimizer: whose rates are changed.
        mode: "min" or "max", what better is.
        factor: below 1.
        patience: epochs without improvement that are put up with.
        threshold: what counts as better: by this share ("rel") or this much ("abs").
        threshold_mode: "rel" or "abs".
        cooldown: epochs after a reduction that do not count.
        min_lr: no rate falls below it.
        eps: changes smaller than this are left out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        for name, value, allowed in (
            ("mode", mode, ("min", "max")),
            ("threshold_mode", threshold_mode, ("rel", "abs")),
        ):
            if value not in allowed:
                raise ValueError(
                    f"ReduceLROnPlateau: {name} must be one of {allowed}, got {value!r}"
                )
        if not factor < 1.0:
            raise ValueError(f"ReduceLROnPlateau: factor must be below 1, got {factor}")
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown = threshold, threshold_mode, cooldown
        self.min_lr, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0

    def _is_better(self, value: float) -> bool:
        sign = -1.0 if self.mode == "min" else 1.0
        if self.threshold_mode == "rel":
            bound = self.best * (1.0 + sign * self.threshold)
        else:
            bound = self.best + sign * self.threshold
        return value < bound if self.mode == "min" else value > bound

    def step(self, metrics: SupportsFloat) -> None:
        """Notes an epoch's metric and reduces the rates where it is time."""
        self.last_epoch += 1
        value = float(metrics)
        if self._is_better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group in self.optimizer.param_groups:
                old = float(plain(group["lr"]))
                new = max(old * self.factor, self.min_lr)
                if old - new > self.eps:
                    _set_lr(group, new)
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def get_last_lr(self) -> list[float]:
        """The rates in force, one for each group."""
        return [float(plain(group["lr"])) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a `state_dict`."""
        vars(self).update(state_dict)
