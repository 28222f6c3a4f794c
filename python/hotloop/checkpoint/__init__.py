"""Checkpoints: safetensors files, written in one step, checked before reading; never pickle."""

from hotloop.checkpoint.errors import CheckpointError, MissingCheckpointError
from hotloop.checkpoint.files import load, load_metadata, save

__all__ = ["CheckpointError", "MissingCheckpointError", "load", "load_metadata", "save"]
