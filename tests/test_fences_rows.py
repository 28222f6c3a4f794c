"""Softmax, losses, norms, reductions, embedding: nothing is touched outside of the arrays.

Every operand lies once right behind and once right before pages without access, at sizes on both
sides of the lanes, the strips and the pieces of long rows.
"""

from __future__ import annotations

from fences import run_fenced
from forced import LEVELS

COMMON = """
from hotloop import kernels as k
rng = np.random.default_rng(0)

def filled(shape, dtype, at_end):
    x = fenced(shape, dtype, at_end)
    x[...] = rng.standard_normal(shape)
    return x

def near(got, want):
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)

def cases():
    for level in LEVELS:
        with force_isa(level):
            for dtype in (np.float32, np.float64):
                for at_end in (False, True):
                    yield dtype, at_end
"""

SOFTMAX = """
for dtype, at_end in cases():
    for shape in ((3, 1), (5, 17), (2, 63), (1, 2047), (3, 2049), (2, 4101)):
        x, out = filled(shape, dtype, at_end), fenced(shape, dtype, at_end)
        k.softmax(x, out=out)
        near(out.sum(1), 1)
        dy, dx = filled(shape, dtype, at_end), fenced(shape, dtype, at_end)
        k.softmax_backward(dy, out, out=dx)
        near(dx, out * (dy - (dy * out).sum(1, keepdims=True)))
        k.log_softmax(x, out=out)
        near(np.exp(out).sum(1), 1)
        k.log_softmax_backward(dy, out, out=dx)
        k.softmax(x, axis=0, out=out)
        near(out.sum(0), 1)
print("no fence touched")
"""

LOSS = """
for dtype, at_end in cases():
    for rows, classes in ((3, 1), (5, 17), (2, 63), (2, 2049), (1, 4101)):
        x, out = filled((rows, classes), dtype, at_end), fenced((rows, classes), dtype, at_end)
        labels, weight = fenced((rows,), np.int64, at_end), fenced((classes,), dtype, at_end)
        labels[...] = rng.integers(0, classes, rows)
        weight[...] = 1
        p = np.exp(x - x.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        want = p - np.eye(classes)[labels]
        for options in ({}, {"weight": weight}):
            k.cross_entropy_with_grad(x, labels, reduction="sum", out=out, **options)
            near(out, want)
        k.cross_entropy_with_grad(x, p, reduction="sum", out=out)
        near(out, 0)
        k.cross_entropy(x, labels, label_smoothing=0.1)
        k.nll_loss_with_grad(x, labels, out=out)
        target = filled((rows, classes), dtype, at_end)
        k.mse_loss_with_grad(x, target, reduction="sum", out=out)
        near(out, 2 * (x - target))
print("no fence touched")
"""

NORM = """
for dtype, at_end in cases():
    for n, c, s in ((2, 1, 3), (3, 17, 5), (1, 67, 33), (2, 130, 4)):
        w, b = filled((c,), dtype, at_end), filled((c,), dtype, at_end)
        for layout, shape in (("NCHW", (n, c, s)), ("NHWC", (n, s, c))):
            axes = (0, 2) if layout == "NCHW" else (0, 1)
            x, y = filled(shape, dtype, at_end), fenced(shape, dtype, at_end)
            dy, dx = filled(shape, dtype, at_end), fenced(shape, dtype, at_end)
            how = {"layout": layout}
            _, mean, rstd = k.batch_norm(
                x, w, b, training=True, return_stats=True, out=y, residual=dy, **how
            )
            near(mean, x.mean(axes))
            k.batch_norm_backward(dy, x, w, mean, rstd, out=dx, **how)
            near(dx.sum(axes), 0)
            _, mean, rstd = k.group_norm(x, 1, w, b, return_stats=True, out=y, **how)
            k.group_norm_backward(dy, x, 1, w, mean, rstd, out=dx, **how)
            near(dx.sum((1, 2)), 0)
    for rows, n in ((1, 1), (3, 17), (2, 67), (5, 1025)):
        w, b = filled((n,), dtype, at_end), filled((n,), dtype, at_end)
        x, y = filled((rows, n), dtype, at_end), fenced((rows, n), dtype, at_end)
        dy, dx = filled((rows, n), dtype, at_end), fenced((rows, n), dtype, at_end)
        _, mean, rstd = k.layer_norm(x, (n,), w, b, return_stats=True, out=y)
        near(mean, x.mean(1))
        k.layer_norm_backward(dy, x, w, mean, rstd, out=dx)
        near(dx.sum(1), 0)
        _, rstd = k.rms_norm(x, (n,), w, return_stats=True, out=y)
        k.rms_norm_backward(dy, x, w, rstd, out=dx)
print("no fence touched")
"""

REDUCE = """
for dtype, at_end in cases():
    for shape in ((1, 1), (3, 17), (67, 5), (130, 600), (300, 2049)):
        x = filled(shape, dtype, at_end)
        for axis in (0, 1):
            out = fenced((shape[1 - axis],), dtype, at_end)
            for name in ("sum", "max", "min", "mean"):
                getattr(k, name)(x, axis, out=out)
                near(out, getattr(np, name)(x.astype(np.float64), axis))
            k.var(x, axis, correction=0, out=out)
            near(out, x.astype(np.float64).var(axis))
            k.logsumexp(x, axis, out=out)
            near(out, np.log(np.exp(x.astype(np.float64)).sum(axis)))
            k.argmax(x, axis)
        k.cumsum(x, 1, out=fenced(shape, dtype, at_end))
        near(k.sum(x), x.astype(np.float64).sum())
print("no fence touched")
"""

EMBEDDING = """
for dtype, at_end in cases():
    for positions, rows, width in ((1, 1, 1), (9, 4, 17), (70, 33, 67)):
        table = filled((rows, width), dtype, at_end)
        indices = fenced((positions,), np.int64, at_end)
        indices[...] = rng.integers(0, rows, positions)
        out = fenced((positions, width), dtype, at_end)
        k.embedding(indices, table, out=out)
        near(out, table[indices])
        dy, dweight = filled((positions, width), dtype, at_end), fenced(table.shape, dtype, at_end)
        k.embedding_backward(dy, indices, rows, out=dweight)
        want = np.zeros(table.shape)
        np.add.at(want, indices, dy)
        near(dweight, want)
print("no fence touched")
"""


def test_softmax():
    run_fenced(COMMON + SOFTMAX, LEVELS)


def test_losses():
    run_fenced(COMMON + LOSS, LEVELS)


def test_norms():
    run_fenced(COMMON + NORM, LEVELS)


def test_reductions():
    run_fenced(COMMON + REDUCE, LEVELS)


def test_embedding():
    run_fenced(COMMON + EMBEDDING, LEVELS)
