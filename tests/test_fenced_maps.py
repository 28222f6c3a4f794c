"""Activations, elementwise ops, dropout, random fills and optimizers touch nothing outside."""

from __future__ import annotations

from fences import run_fenced
from forced import LEVELS

_SIZES = "(1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 1023, 1024, 4097)"

_MAPS = f"""
from hotloop import _core, kernels as k
rng = np.random.default_rng(3)
binary = ("add", "sub", "mul", "div", "pow", "maximum", "minimum")
unary = ("exp", "log", "sqrt", "rsqrt", "sin", "cos", "expm1", "log1p", "abs", "sign", "neg")
for level in LEVELS:
    with force_isa(level):
        for n in {_SIZES}:
            for dtype in (np.float32, np.float64):
                for at_end in (False, True):
                    a, b, c, out = (fenced((n,), dtype, at_end) for _ in range(4))
                    flags = fenced((n,), np.bool_, at_end)
                    a[...], b[...] = rng.uniform(0.1, 3, n), rng.uniform(0.1, 20, n)
                    c[...] = b
                    for name, _, _ in _core.activations:
                        getattr(k, name)(b, out=out)
                        getattr(k, name + "_backward")(a, b, out=out)
                        getattr(k, name)(b, out=b)
                        b[...] = c
                    if n < 100:
                        for name in unary:
                            getattr(k, name)(a, out=out)
                        for name in binary:
                            getattr(k, name)(a, b, out=out)
                        k.lt(a, b, out=flags)
                        k.where(flags, a, b, out=out)
                        k.clip(a, 0.5, b, out=out)
                        k.add(a[::2], b[::2], out=out[::2])
                        k.gelu(a[::-2], out=out[::-2])
                    k.dropout(a, 0.5, key=k.random_key(), out=out)
                    k.dropout(a, 0.5, out=a)
                    for fill in (k.uniform, k.normal):
                        fill(n, dtype=dtype, out=out)
                    k.bernoulli(n, 0.5, dtype=dtype, out=out)
                    del a, b, c, out, flags
            kept.clear()
print("no fence touched")
"""

_OPTIMIZERS = f"""
from hotloop import kernels as k
steps = (
    (k.sgd_step, 1, dict(step=2, momentum=0.9)), (k.adam_step, 3, dict(step=2)),
    (k.adamw_step, 2, dict(step=2)), (k.adamax_step, 2, dict(step=2)),
    (k.nadam_step, 2, dict(step=2, mu_product=0.3)), (k.rmsprop_step, 3, dict(momentum=0.5)),
    (k.adagrad_step, 1, dict(step=2)), (k.adadelta_step, 2, dict()), (k.lion_step, 1, dict()),
    (k.lamb_step, 2, dict(step=2)),
)
for level in LEVELS:
    with force_isa(level):
        for n in {_SIZES}:
            for dtype in (np.float32, np.float64):
                for at_end in (False, True):
                    arrays = [fenced((n,), dtype, at_end) for _ in range(5)]
                    copies = fenced((n,), np.uint16, at_end).view(BF16) if BF16 else None
                    for step, count, options in steps:
                        for a in arrays:
                            a[...] = 1
                        rest = dict(bf16_params=copies) if BF16 and dtype is np.float32 else dict()
                        step(*arrays[: 2 + count], lr=0.1, max_norm=1.0, **options, **rest)
                    k.clip_grad_norm(arrays[1], 0.5)
                    k.clip_grad_value(arrays[1], 0.1)
                    del a, arrays, copies
            kept.clear()
print("no fence touched")
"""

_BF16 = """
try:
    from ml_dtypes import bfloat16 as BF16
except ImportError:
    BF16 = None
"""


def test_maps_and_random_numbers():
    run_fenced(_MAPS, LEVELS)


def test_optimizers():
    run_fenced(_BF16 + _OPTIMIZERS, LEVELS)
