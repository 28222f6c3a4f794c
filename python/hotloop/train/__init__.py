"""Training in one call: `fit`, `evaluate`, `predict`."""

from hotloop.train.history import History
from hotloop.train.loop import Callback, evaluate, fit, predict

__all__ = ["Callback", "History", "evaluate", "fit", "predict"]
