"""Optimizers with PyTorch's names, defaults and numerics; Lion and LAMB after their papers."""

from hotloop.optim import lr_scheduler as lr_scheduler
from hotloop.optim.adadelta import Adadelta
from hotloop.optim.adagrad import Adagrad
from hotloop.optim.adam import Adam, AdamW
from hotloop.optim.adamax import Adamax
from hotloop.optim.lamb import LAMB
from hotloop.optim.lion import Lion
from hotloop.optim.nadam import NAdam
from hotloop.optim.optimizer import Optimizer
from hotloop.optim.rmsprop import RMSprop
from hotloop.optim.sgd import SGD

__all__ = [
    "LAMB", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "Optimizer",
    "RMSprop",
]  # fmt: skip
