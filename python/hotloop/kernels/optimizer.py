"""Optimizer steps in place: one call, one launch over all tensors. PyTorch's semantics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hotloop import _core

__all__ = ["adam_step", "adamw_step", "sgd_step"]

Arrays: TypeAlias = NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]]]
"""One array, or a list or tuple of arrays."""

Scalar: TypeAlias = SupportsFloat | NDArray[Any]
"""A number or a 0-d array, which is read at each call."""


def sgd_step(
    params: Arrays,
    grads: Arrays,
    momentum_buffers: Arrays | None = None,
    *,
    lr: Scalar,
    step: Scalar = 1,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """One step of stochastic gradient descent, in place.

    ``d = g + weight_decay * p``; with momentum, ``b = d`` at step 1 and
    ``b = momentum * b + (1 - dampening) * d`` later, and ``d`` becomes ``b``, or
    ``d + momentum * b`` with Nesterov; then ``p -= lr * d``.

    Everything is checked before anything is written. A call in progress is finished also when
    Ctrl-C arrives. Any strides; arrays of one memory order run fastest.

    Args:
        params: the parameters, float32 or float64; changed.
        grads: their gradients, same shapes and dtypes; must not share memory with what is changed.
        momentum_buffers: same shapes and dtypes; changed. Needed when `momentum` is not 0, and not
            read at step 1.
        lr: learning rate, at least 0; may be a 0-d array.
        step: number of this step, from 1; may be a 0-d array.
        momentum: at least 0.
        dampening: of the momentum.
        nesterov: look ahead; needs a momentum and no dampening.
        weight_decay: L2 penalty, at least 0.

    Raises:
        ShapeError: the slots hold different numbers of arrays, or arrays of different shapes.
        DTypeError: an array is not float32 or float64, or its dtype is not that of its parameter.
        OutputError: an array to be changed is read-only or shares memory with another.
        ValueError: a number is out of its range.

    Source: torch.optim.SGD.
    """
    _core.sgd_step(
        params, grads, momentum_buffers, lr, step, momentum, dampening, nesterov, weight_decay
    )


def adam_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    *,
    lr: Scalar,
    step: Scalar,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """One step of Adam, in place.

    ``g += weight_decay * p``; ``m += (1 - beta1) * (g - m)``;
    ``v = beta2 * v + (1 - beta2) * g**2``;
    ``p -= lr / (1 - beta1**step) * m / (sqrt(v / (1 - beta2**step)) + eps)``.

    Everything is checked before anything is written. A call in progress is finished also when
    Ctrl-C arrives. Any strides; arrays of one memory order run fastest. There is no AMSGrad.

    Args:
        params: the parameters, float32 or float64; changed.
        grads: their gradients, same shapes and dtypes; must not share memory with what is changed.
        exp_avgs: running means of the gradients (m), zeros before step 1; changed.
        exp_avg_sqs: running means of their squares (v), zeros before step 1; changed.
        lr: learning rate, at least 0; may be a 0-d array.
        step: number of this step, from 1; may be a 0-d array.
        betas: how much of each running mean is kept, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: L2 penalty, at least 0.

    Raises:
        ShapeError: the slots hold different numbers of arrays, or arrays of different shapes.
        DTypeError: an array is not float32 or float64, or its dtype is not that of its parameter.
        OutputError: an array to be changed is read-only or shares memory with another.
        ValueError: a number is out of its range.

    Source: Kingma and Ba, arXiv:1412.6980; torch.optim.Adam.
    """
    beta1, beta2 = betas
    _core.adam_step(params, grads, exp_avgs, exp_avg_sqs, lr, step, beta1, beta2, eps, weight_decay)


def adamw_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    *,
    lr: Scalar,
    step: Scalar,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> None:
    """One step of Adam with decoupled weight decay, in place.

    ``p *= 1 - lr * weight_decay``, then Adam's update without a penalty in the gradient. Arguments
    and errors are those of `adam_step`.

    Source: Loshchilov and Hutter, arXiv:1711.05101; torch.optim.AdamW.
    """
    beta1, beta2 = betas
    _core.adamw_step(
        params, grads, exp_avgs, exp_avg_sqs, lr, step, beta1, beta2, eps, weight_decay
    )
