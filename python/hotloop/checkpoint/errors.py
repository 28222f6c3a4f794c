"""What can be wrong with a checkpoint."""

from __future__ import annotations

__all__ = ["CheckpointError", "MissingCheckpointError"]


class CheckpointError(ValueError):
    """A checkpoint that is truncated, damaged, hostile or of a kind that is not read."""


class MissingCheckpointError(CheckpointError, FileNotFoundError):
    """No checkpoint at the given path."""
