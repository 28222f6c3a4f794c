"""The CUDA device: whether it can be used, and the reason where it cannot."""

from __future__ import annotations

__all__ = ["is_available", "unavailable_reason"]


def is_available() -> bool:
    """Whether tensors can be moved to the device "cuda"."""
    return not unavailable_reason()


def unavailable_reason() -> str:
    """One sentence saying why CUDA cannot be used; empty where it can."""
    return "this version of hotloop has no CUDA kernels yet; everything runs on the CPU"
