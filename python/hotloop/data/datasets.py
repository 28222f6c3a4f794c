"""Data that comes with other packages, ready to train on."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["load_digits"]

Array = np.ndarray[Any, Any]


def load_digits() -> tuple[Array, Array]:
    """The handwritten digits that scikit-learn ships: 1,797 real images of 8 x 8 pixels.

    Returns:
        Images (1797, 1, 8, 8), float32 in [0, 1], and labels (1797,), int64 from 0 to 9.

    Raises:
        ImportError: scikit-learn is not installed.

    Source: E. Alpaydin and C. Kaynak, UCI repository, Optical Recognition of Handwritten Digits.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError(
            "load_digits: scikit-learn must be installed, which it is not; "
            'run: pip install "hotloop[demo]"'
        ) from error
    digits = load()
    images = np.asarray(digits.images, dtype=np.float32)[:, None] / np.float32(16)
    return images, np.asarray(digits.target, dtype=np.int64)
