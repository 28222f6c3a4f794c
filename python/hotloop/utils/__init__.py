"""`hl.utils.data` is `hl.data`, as programs for PyTorch spell it."""

from hotloop import data

__all__ = ["data"]
