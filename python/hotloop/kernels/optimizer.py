"""Optimizer steps in place: one call, one launch over all tensors. PyTorch's semantics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hotloop import _core

__all__ = [
    "adadelta_step", "adagrad_step", "adam_step", "adamax_step", "adamw_step", "clip_grad_norm",
    "clip_grad_value", "clipped_grad_scale", "grad_norm", "lamb_step", "lion_step", "nadam_step",
    "rmsprop_step", "sgd_step",
]  # fmt: skip

Arrays: TypeAlias = NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]]]
"""One array, or a list or tuple of arrays."""

Copies: TypeAlias = NDArray[Any] | Sequence[NDArray[Any]]
"""One array of bfloat16 (`ml_dtypes`), or a list or tuple of them."""

Scalar: TypeAlias = SupportsFloat | NDArray[Any]
"""A number or a 0-d array, which is read at each call.

Beside arrays on a GPU, `lr`, `step` and `grad_scale` may lie there too (float32 or float64, not for
NAdam): then the kernel reads them, unchecked, also when the step is replayed from a graph."""

Measured: TypeAlias = Any
"""A float; of arrays on a GPU a float64 array without axes that stays there."""


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
    grad_scale: Scalar = 1.0,
    maximize: bool = False,
    max_norm: Scalar | None = None,
    bf16_params: Copies | None = None,
) -> Measured | None:
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
        grad_scale, maximize, max_norm, bf16_params: as in `adam_step`.

    Returns:
        As `adam_step`.

    Raises:
        ShapeError: the slots hold different numbers of arrays, or arrays of different shapes.
        DTypeError: an array is not float32 or float64, or its dtype is not that of its parameter.
        OutputError: an array to be changed is read-only or shares memory with another.
        ValueError: a number is out of its range.

    Source: torch.optim.SGD.
    """
    return _core.sgd_step(
        params, grads, momentum_buffers, lr, step, momentum, dampening, nesterov, weight_decay,
        grad_scale, maximize, max_norm, bf16_params,
    )  # fmt: skip


def adam_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: Arrays | None = None,
    *,
    lr: Scalar,
    step: Scalar,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    grad_scale: Scalar = 1.0,
    maximize: bool = False,
    max_norm: Scalar | None = None,
    bf16_params: Copies | None = None,
) -> Measured | None:
    """One step of Adam, in place.

    ``g += weight_decay * p``; ``m = beta1 * m + (1 - beta1) * g``;
    ``v = beta2 * v + (1 - beta2) * g**2``;
    ``p -= lr / (1 - beta1**step) * m / (sqrt(v / (1 - beta2**step)) + eps)``.

    Everything is checked before anything is written. A call in progress is finished also when
    Ctrl-C arrives. Any strides; arrays of one memory order run fastest.

    Args:
        params: the parameters, float32 or float64; changed.
        grads: their gradients, same shapes and dtypes; must not share memory with what is changed.
        exp_avgs: running means of the gradients (m), zeros before step 1; changed.
        exp_avg_sqs: running means of their squares (v), zeros before step 1; changed.
        max_exp_avg_sqs: the largest v so far, zeros before step 1; changed. Where given, it takes
            the place of v in the denominator (AMSGrad).
        lr: learning rate, at least 0; may be a 0-d array.
        step: number of this step, from 1; may be a 0-d array.
        betas: how much of each running mean is kept, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: L2 penalty, at least 0.
        grad_scale: the gradients are divided by it first; may be a 0-d array.
        maximize: go up the gradient.
        max_norm: where given, the gradients (after grad_scale) of all tensors together are scaled
            down to this 2-norm, as by `clip_grad_norm`, without being written: one more pass that
            reads them.
        bf16_params: bfloat16 arrays of the shapes of `params`, which must be float32; written in
            the same pass: the new parameters, rounded to nearest, ties to even.

    Returns:
        The norm before it was clipped, or None without `max_norm`.

    Raises:
        ShapeError: the slots hold different numbers of arrays, or arrays of different shapes.
        DTypeError: an array is not float32 or float64, or its dtype is not that of its parameter.
        OutputError: an array to be changed is read-only or shares memory with another.
        ValueError: a number is out of its range.

    Source: Kingma and Ba, arXiv:1412.6980; Reddi et al., arXiv:1904.09237; torch.optim.Adam.
    """
    return _core.adam_step(
        params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, lr, step, *betas, eps, weight_decay,
        grad_scale, maximize, max_norm, bf16_params,
    )  # fmt: skip


def adamw_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: Arrays | None = None,
    *,
    lr: Scalar,
    step: Scalar,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    grad_scale: Scalar = 1.0,
    maximize: bool = False,
    max_norm: Scalar | None = None,
    bf16_params: Copies | None = None,
) -> Measured | None:
    """One step of Adam with decoupled weight decay, in place.

    ``p *= 1 - lr * weight_decay``, then Adam's update without a penalty in the gradient. Arguments,
    result and errors are those of `adam_step`.

    Source: Loshchilov and Hutter, arXiv:1711.05101; torch.optim.AdamW.
    """
    return _core.adamw_step(
        params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, lr, step, *betas, eps, weight_decay,
        grad_scale, maximize, max_norm, bf16_params,
    )  # fmt: skip


def adamax_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_infs: Arrays,
    *,
    lr: Scalar,
    step: Scalar,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    grad_scale: Scalar = 1.0,
    maximize: bool = False,
    max_norm: Scalar | None = None,
    bf16_params: Copies | None = None,
) -> Measured | None:
    """One step of Adamax, in place: Adam with the largest gradient in place of the mean square.

    ``g += weight_decay * p``; ``m = beta1 * m + (1 - beta1) * g``;
    ``u = max(beta2 * u, |g| + eps)``; ``p -= lr / (1 - beta1**step) * m / u``. `exp_infs`
    is u, zeros before step 1; the other arguments, result and errors are those of `adam_step`.

    Source: Kingma and Ba, arXiv:1412.6980; torch.optim.Adamax.
    """
    return _core.adamax_step(
        params, grads, exp_avgs, exp_infs, lr, step, *betas, eps, weight_decay,
        grad_scale, maximize, max_norm, bf16_params,
    )  # fmt: skip


def nadam_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    *,
    lr: Scalar,
    step: Scalar,
    mu_product: Scalar,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    grad_scale: Scalar = 1.0,
    maximize: bool = False,
    max_norm: Scalar | None = None,
    bf16_params: Copies | None = None,
) -> Measured | None:
    """One step of Adam with Nesterov's momentum, in place.

    With ``mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2)`` and m and v as in Adam,
    ``p -= lr * ((1 - mu_t) / (1 - mu_product) * g + mu_{t+1} / (1 - mu_product * mu_{t+1}) * m)
    / (sqrt(v / (1 - beta2**step)) + eps)``. `mu_product` is the product of mu_1 to mu_step, this
    step's included. With `decoupled_weight_decay` the decay is that of AdamW. The other arguments,
    result and errors are those of `adam_step`.

    Source: Dozat, Incorporating Nesterov momentum into Adam (2016); torch.optim.NAdam.
    """
    return _core.nadam_step(
        params, grads, exp_avgs, exp_avg_sqs, lr, step, mu_product, *betas, eps, weight_decay,
        momentum_decay, decoupled_weight_decay, grad_scale, maximize, max_norm, bf16_params,
    )  # fmt: skip


def rmsprop_step(
    params: Arrays,
    grads: Arrays,
    square_avgs: Arrays,
    momentum_buffers: Arrays | None = None,
    grad_avgs: Arrays | None = None,
    *,
    lr: Scalar,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    grad_scale: Scalar = 1.0,
    maximize: bool = False,
    max_norm: Scalar | None = None,
    bf16_params: Copies | None = None,
) -> Measured | None:
    """One step of RMSprop, in place.

    ``g += weight_decay * p``; ``s = alpha * s + (1 - alpha) * g**2``; ``d = g / (sqrt(s) + eps)``;
    with momentum ``b = momentum * b + d`` takes the place of d; ``p -= lr * d``. With `grad_avgs`
    (centred), their running mean a of g is kept as well and ``s - a**2`` stands under the root.
    All state is zeros before the first step; `momentum_buffers` are needed when `momentum` is not
    0. The other arguments, result and errors are those of `adam_step`.

    Source: Tieleman and Hinton, Coursera lecture 6.5 (2012); torch.optim.RMSprop.
    """
    return _core.rmsprop_step(
        params, grads, square_avgs, momentum_buffers, grad_avgs, lr, alpha, eps, weight_decay,
        momentum, grad_scale, maximize, max_norm, bf16_params,
    )  # fmt: skip


def adagrad_step(
    params: Arrays,
    grads: Arrays,
    state_sums: Arrays,
    *,
    lr: Scalar,
    step: Scalar,
    lr_decay: float = 0.0,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    grad_scale: Scalar = 1.0,
    maximize: bool = False,
    max_norm: Scalar | None = None,
    bf16_params: Copies | None = None,
) -> Measured | None:
    """One step of Adagrad, in place.

    ``g += weight_decay * p``; ``s += g**2``;
    ``p -= lr / (1 + (step - 1) * lr_decay) * g / (sqrt(s) + eps)``. `state_sums` is s, zeros (or
    what the sums are to begin with) before step 1; the other arguments, result and errors are those
    of `adam_step`.

    Source: Duchi, Hazan and Singer, JMLR 12 (2011); torch.optim.Adagrad.
    """
    return _core.adagrad_step(
        params, grads, state_sums, lr, step, lr_decay, eps, weight_decay,
        grad_scale, maximize, max_norm, bf16_params,
    )  # fmt: skip


def adadelta_step(
    params: Arrays,
    grads: Arrays,
    square_avgs: Arrays,
    acc_deltas: Arrays,
    *,
    lr: Scalar = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    grad_scale: Scalar = 1.0,
    maximize: bool = False,
    max_norm: Scalar | None = None,
    bf16_params: Copies | None = None,
) -> Measured | None:
    """One step of Adadelta, in place.

    ``g += weight_decay * p``; ``s = rho * s + (1 - rho) * g**2``;
    ``d = sqrt(a + eps) / sqrt(s + eps) * g``; ``a = rho * a + (1 - rho) * d**2``; ``p -= lr * d``.
    `square_avgs` is s and `acc_deltas` a, zeros before the first step; the other arguments, result
    and errors are those of `adam_step`.

    Source: Zeiler, arXiv:1212.5701; torch.optim.Adadelta.
    """
    return _core.adadelta_step(
        params, grads, square_avgs, acc_deltas, lr, rho, eps, weight_decay,
        grad_scale, maximize, max_norm, bf16_params,
    )  # fmt: skip


def lion_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    *,
    lr: Scalar,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    grad_scale: Scalar = 1.0,
    maximize: bool = False,
    max_norm: Scalar | None = None,
    bf16_params: Copies | None = None,
) -> Measured | None:
    """One step of Lion, in place.

    ``p *= 1 - lr * weight_decay``; ``p -= lr * sign(beta1 * m + (1 - beta1) * g)``;
    ``m = beta2 * m + (1 - beta2) * g``. `exp_avgs` is m, zeros before the first step; the other
    arguments, result and errors are those of `adam_step`.

    Source: Chen et al., arXiv:2302.06675.
    """
    return _core.lion_step(
        params, grads, exp_avgs, lr, *betas, weight_decay, grad_scale, maximize, max_norm,
        bf16_params,
    )  # fmt: skip


def lamb_step(
    params: Arrays,
    grads: Arrays,
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    *,
    lr: Scalar,
    step: Scalar,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    grad_scale: Scalar = 1.0,
    maximize: bool = False,
    max_norm: Scalar | None = None,
    bf16_params: Copies | None = None,
) -> Measured | None:
    """One step of LAMB, in place: Adam's direction, its length that of each parameter.

    With Adam's m and v, ``u = m / (1 - beta1**step) / (sqrt(v / (1 - beta2**step)) + eps) +
    weight_decay * p`` and ``p -= lr * |p| / |u| * u``, the norms over each tensor; the quotient is
    1 where a norm is 0. Two passes. Arguments, result and errors are those of `adam_step`.

    Source: You et al., arXiv:1904.00962, with phi(x) = x.
    """
    return _core.lamb_step(
        params, grads, exp_avgs, exp_avg_sqs, lr, step, *betas, eps, weight_decay,
        grad_scale, maximize, max_norm, bf16_params,
    )  # fmt: skip


def grad_norm(grads: Arrays, *, norm_type: float = 2.0) -> Measured:
    """The norm of all arrays as if they were one vector, summed in fixed order.

    Args:
        grads: float32 or float64, any strides.
        norm_type: 1, 2 or infinity.

    Returns:
        A float; of arrays on a GPU a float64 array without axes there: nothing is read back.

    Raises:
        DTypeError: an array is not float32 or float64.
        ValueError: another norm_type.

    Source: torch.nn.utils.get_total_norm.
    """
    return _core.grad_norm(grads, norm_type)


def clip_grad_norm(grads: Arrays, max_norm: Scalar, *, norm_type: float = 2.0) -> Measured:
    """Scales all arrays in place by ``min(1, max_norm / (norm + 1e-6))``.

    A NaN in a gradient makes all of them NaN, as in PyTorch; look at the result.

    Args:
        grads: float32 or float64, any strides; changed, unless the norm is below `max_norm`.
        max_norm: at least 0; may be a 0-d array.
        norm_type: 1, 2 or infinity.

    Returns:
        The norm before, as `grad_norm` gives it.

    Raises:
        DTypeError: an array is not float32 or float64.
        OutputError: an array is read-only or shares memory with another.
        ValueError: a number is out of its range.

    Source: torch.nn.utils.clip_grad_norm_.
    """
    return _core.clip_grad_norm(grads, max_norm, norm_type)


def clipped_grad_scale(
    grads: Arrays, max_norm: Scalar, *, grad_scale: Scalar = 1.0
) -> tuple[Measured, Measured]:
    """The `grad_scale` with which steps clip to a norm: for gradients that several calls share.

    ``norm = |grads| / grad_scale; scale = grad_scale / min(1, max_norm / (norm + 1e-6))``. Nothing
    is written; on a GPU nothing is read back.

    Args:
        grads: float32 or float64, any strides.
        max_norm: at least 0.
        grad_scale: above 0; what the gradients are divided by anyhow.

    Returns:
        The norm and the scale, as `grad_norm` gives them.

    Raises:
        DTypeError: an array is not float32 or float64.
        ValueError: a number is out of its range.

    Source: torch.nn.utils.clip_grad_norm_.
    """
    norm, scale = _core.clipped_grad_scale(grads, max_norm, grad_scale)
    return norm, scale


def clip_grad_value(grads: Arrays, clip_value: Scalar) -> None:
    """Clamps every element to [-clip_value, clip_value], in place; NaN stays NaN.

    Args:
        grads: float32 or float64, any strides; changed.
        clip_value: at least 0; may be a 0-d array.

    Raises:
        As `clip_grad_norm`.

    Source: torch.nn.utils.clip_grad_value_.
    """
    _core.clip_grad_value(grads, clip_value)
