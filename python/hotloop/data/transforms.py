"""Random changes of images that leave their label as it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from hotloop.data.random import Seed, generator_of

__all__ = ["random_affine"]

Array = np.ndarray[Any, Any]


def random_affine(
    images: Array,
    *,
    rotation: float = 0.0,
    scale: float = 0.0,
    shift: float = 0.0,
    seed: Seed = None,
) -> Array:
    """Rotates, scales and shifts each image by amounts of its own, with bilinear interpolation.

    Args:
        images: (N, C, H, W), float.
        rotation: at most this angle either way, in radians.
        scale: each axis by a factor in [1 - scale, 1 + scale].
        shift: at most this many pixels along each axis.
        seed: a seed or a NumPy generator; None takes one that follows from `hl.seed`.

    Returns:
        Fresh images of the same shape and dtype; zeros come in from outside.

    Raises:
        ValueError: images of another rank, or scale outside [0, 1).
    """
    if images.ndim != 4 or not 0 <= scale < 1:
        raise ValueError(
            "random_affine: images must be (N, C, H, W) and scale in [0, 1), got shape "
            f"{images.shape} and {scale}"
        )
    n, _, h, w = images.shape
    random = generator_of(seed)
    angle = random.uniform(-rotation, rotation, (n, 1, 1))
    scale_y, scale_x = random.uniform(1 - scale, 1 + scale, (2, n, 1, 1))
    shift_y, shift_x = random.uniform(-shift, shift, (2, n, 1, 1))
    y = np.arange(h)[:, None] - (h - 1) / 2
    x = np.arange(w)[None, :] - (w - 1) / 2
    # Where each output pixel comes from, on the image with a border of one zero around it.
    from_y = (np.cos(angle) * y - np.sin(angle) * x) / scale_y + shift_y + (h + 1) / 2
    from_x = (np.sin(angle) * y + np.cos(angle) * x) / scale_x + shift_x + (w + 1) / 2
    from_y, from_x = np.clip(from_y, 0, h + 0.999), np.clip(from_x, 0, w + 0.999)
    top, left = from_y.astype(np.intp), from_x.astype(np.intp)
    down = (from_y - top).astype(images.dtype)[..., None]
    right = (from_x - left).astype(images.dtype)[..., None]
    # (N, H, W, C) makes the gather one index; a second border catches the lower right neighbours.
    padded = np.pad(images, ((0, 0), (0, 0), (1, 2), (1, 2))).transpose(0, 2, 3, 1)
    number = np.arange(n)[:, None, None]
    upper = (1 - right) * padded[number, top, left] + right * padded[number, top, left + 1]
    lower = (1 - right) * padded[number, top + 1, left] + right * padded[number, top + 1, left + 1]
    result = (1 - down) * upper + down * lower
    return np.ascontiguousarray(result.transpose(0, 3, 1, 2))
