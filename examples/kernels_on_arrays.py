"""Kernels alone: a two-layer network on NumPy arrays, forward, backward and update, no framework.

Every kernel is a plain function. Arrays go in and come out, gradients are functions of their own,
and `out=` says where a result goes, so a loop can run without allocating.
"""

import numpy as np

import hotloop as hl

k = hl.kernels
rng = np.random.default_rng(0)

# Points on two spirals, to be told apart.
n = 512
label = np.arange(n) % 2
angle = rng.uniform(0.5, 3 * np.pi, n)
points = np.stack([np.cos(angle + np.pi * label), np.sin(angle + np.pi * label)], axis=1)
x = (points * angle[:, None] / 5 + rng.normal(0, 0.02, (n, 2))).astype(np.float32)

# Weights are (out, in), as in PyTorch; every array is the caller's own.
hidden = 64
w1 = rng.normal(0, 1.0, (hidden, 2)).astype(np.float32)
b1 = rng.normal(0, 1.0, hidden).astype(np.float32)
w2 = rng.normal(0, 0.2, (2, hidden)).astype(np.float32)
b2 = np.zeros(2, np.float32)
params = [w1, b1, w2, b2]
exp_avgs = [np.zeros_like(p) for p in params]
exp_avg_sqs = [np.zeros_like(p) for p in params]

h = np.empty((n, hidden), np.float32)  # reused in every step
dh = np.empty_like(h)

for step in range(1, 401):
    # Forward; `activation` is applied on the way out of the product.
    k.linear(x, w1, b1, activation="relu", out=h)
    logits = k.linear(h, w2, b2)
    loss, dlogits = k.cross_entropy_with_grad(logits, label)

    # Backward: each kernel has a twin.
    dy, dw2, db2 = k.linear_backward(dlogits, h, w2)
    k.relu_backward(dy, h, out=dh)
    _, dw1, db1 = k.linear_backward(dh, x, w1)

    # One call updates all tensors, in place.
    k.adamw_step(params, [dw1, db1, dw2, db2], exp_avgs, exp_avg_sqs, lr=0.02, step=step)
    if step % 100 == 0:
        right = np.mean(np.argmax(logits, axis=1) == label)
        print(f"step {step}: loss {float(loss):.4f}, {100 * right:.1f} % right")

assert right > 0.9
print("the weights of the first hidden unit:", w1[0])
