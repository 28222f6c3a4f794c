"""Optimizers with PyTorch's names, defaults and numerics."""

from hotloop.optim.adam import Adam, AdamW
from hotloop.optim.optimizer import Optimizer
from hotloop.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer"]
