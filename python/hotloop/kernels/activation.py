"""Activations and their gradients, element by element.

Every function takes float32 or float64 arrays of any shape and strides and returns an array of the
same shape and dtype whose axes lie in memory as the input's do. ``out`` may be the input itself.
All raise ``DTypeError`` for other dtypes, ``ShapeError`` for shapes that differ, ``OutputError``
for an ``out`` that is read-only or partly overlaps an input. NaN passes through; infinities give
the limits.

The backward functions take the gradient ``dy`` of the result and what their name says was kept: the
result ``y`` where it suffices, else the input ``x``.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hotloop import _core

__all__ = [
    "elu",
    "elu_backward",
    "gelu",
    "gelu_backward",
    "gelu_tanh",
    "gelu_tanh_backward",
    "hardswish",
    "hardswish_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softplus",
    "softplus_backward",
    "tanh",
    "tanh_backward",
]

T = TypeVar("T", bound=np.floating)


def relu(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Rectifier: ``max(x, 0)``.

    Args:
        x: float32 or float64, any shape and strides.
        out: Where to write the result, of x's shape and dtype, any strides; may be x itself.

    Returns:
        ``out``, or a fresh array whose axes lie in memory as x's do.

    Raises:
        DTypeError: If x is no array of float32 or float64, or out has another dtype.
        ShapeError: If out has another shape.
        OutputError: If out is read-only or partly overlaps x.

    Source: Nair and Hinton 2010.
    """
    return _core.relu(x, out)


def relu_backward(dy: NDArray[T], y: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Gradient of :func:`relu` from its result: ``dy`` where ``y > 0``, else 0.

    Args:
        dy: Gradient of the result, float32 or float64.
        y: The result of the forward call, of dy's shape and dtype.
        out: Where to write the gradient; may be dy or y itself.

    Returns:
        The gradient of the input: ``out``, or a fresh array.

    Raises:
        DTypeError: If dy and y have different dtypes or neither float32 nor float64.
        ShapeError: If the shapes differ.
        OutputError: If out is read-only or partly overlaps dy or y.
    """
    return _core.relu_backward(dy, y, out)


def leaky_relu(
    x: NDArray[T], negative_slope: float = 0.01, *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """Leaky rectifier: ``x`` where ``x > 0``, else ``negative_slope * x``.

    Arguments, result and errors as in :func:`relu`. Raises ``ValueError`` for a negative slope
    below 0. Source: Maas et al. 2013.
    """
    return _core.leaky_relu(x, negative_slope, out)


def leaky_relu_backward(
    dy: NDArray[T], y: NDArray[T], negative_slope: float = 0.01, *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """Gradient of :func:`leaky_relu` from its result: ``dy`` or ``negative_slope * dy``."""
    return _core.leaky_relu_backward(dy, y, negative_slope, out)


def elu(x: NDArray[T], alpha: float = 1.0, *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Exponential linear unit: ``x`` where ``x > 0``, else ``alpha * (exp(x) - 1)``.

    Arguments, result and errors as in :func:`relu`. Raises ``ValueError`` for a negative alpha.
    Source: Clevert et al. 2015, arXiv:1511.07289.
    """
    return _core.elu(x, alpha, out)


def elu_backward(
    dy: NDArray[T], y: NDArray[T], alpha: float = 1.0, *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """Gradient of :func:`elu` from its result: ``dy`` or ``dy * (y + alpha)`` below 0."""
    return _core.elu_backward(dy, y, alpha, out)


def gelu(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Gaussian error linear unit: ``x * (1 + erf(x / sqrt(2))) / 2``.

    Arguments, result and errors as in :func:`relu`. Source: Hendrycks and Gimpel 2016,
    arXiv:1606.08415.
    """
    return _core.gelu(x, out)


def gelu_backward(dy: NDArray[T], x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Gradient of :func:`gelu` from its input: ``dy * (Phi(x) + x * phi(x))``."""
    return _core.gelu_backward(dy, x, out)


def gelu_tanh(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """GELU's tanh form: ``x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x**3))) / 2``.

    Within 3 ULP in float32 from -1 on, with AVX-512 from -4.6 on. Below, what rounding the
    argument costs grows with it: to 200 ULP at -10, where the result is 1e-24; less than 1e-7 in
    all.

    Arguments, result and errors as in :func:`relu`. Source: Hendrycks and Gimpel 2016,
    arXiv:1606.08415.
    """
    return _core.gelu_tanh(x, out)


def gelu_tanh_backward(
    dy: NDArray[T], x: NDArray[T], *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """Gradient of :func:`gelu_tanh` from its input."""
    return _core.gelu_tanh_backward(dy, x, out)


def silu(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Sigmoid linear unit (swish): ``x / (1 + exp(-x))``.

    Arguments, result and errors as in :func:`relu`. Source: Elfwing et al. 2017,
    arXiv:1702.03118.
    """
    return _core.silu(x, out)


def silu_backward(dy: NDArray[T], x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Gradient of :func:`silu` from its input: ``dy * s * (1 + x * (1 - s))``, s the sigmoid."""
    return _core.silu_backward(dy, x, out)


def sigmoid(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Logistic function: ``1 / (1 + exp(-x))``, without overflow.

    Arguments, result and errors as in :func:`relu`.
    """
    return _core.sigmoid(x, out)


def sigmoid_backward(dy: NDArray[T], y: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Gradient of :func:`sigmoid` from its result: ``dy * y * (1 - y)``."""
    return _core.sigmoid_backward(dy, y, out)


def tanh(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Hyperbolic tangent, within 2 ULP in float32 and 4 in float64.

    Arguments, result and errors as in :func:`relu`.
    """
    return _core.tanh(x, out)


def tanh_backward(dy: NDArray[T], y: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Gradient of :func:`tanh` from its result: ``dy * (1 - y**2)``."""
    return _core.tanh_backward(dy, y, out)


def softplus(x: NDArray[T], beta: float = 1.0, *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Smooth rectifier: ``log(1 + exp(beta * x)) / beta``, without overflow.

    Arguments, result and errors as in :func:`relu`. Raises ``ValueError`` unless beta is
    positive. Source: Dugas et al. 2000.
    """
    return _core.softplus(x, beta, out)


def softplus_backward(
    dy: NDArray[T], y: NDArray[T], beta: float = 1.0, *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """Gradient of :func:`softplus` from its result: ``dy * (1 - exp(-beta * y))``."""
    return _core.softplus_backward(dy, y, beta, out)


def hardswish(x: NDArray[T], *, out: NDArray[T] | None = None) -> NDArray[T]:
    """Piecewise SiLU: ``x * min(max(x + 3, 0), 6) / 6``.

    Arguments, result and errors as in :func:`relu`. Source: Howard et al. 2019, arXiv:1905.02244.
    """
    return _core.hardswish(x, out)


def hardswish_backward(
    dy: NDArray[T], x: NDArray[T], *, out: NDArray[T] | None = None
) -> NDArray[T]:
    """Gradient of :func:`hardswish` from its input: 0 below -3, ``dy`` above 3, between a line."""
    return _core.hardswish_backward(dy, x, out)
