"""Matrix products: squares, the layers of common networks, rows, attention, awkward sizes.

The default table is a core of these; `--all` or `--match` times the rest. A product is called by
its sizes m x n x k and by how its operands are stored: nt is a @ b.T. Two processes on the same
cores are timed by `--processes`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import hotloop as hl

from ..case import Arrays, Build, Call, Case, Target, normal
from . import _gemm_bf16, _gemm_int8
from ._rivals import jax_call, onnx_call, torch_call

# Sizes and the share of the FMA ceiling that is promised where rivals leave no room for 1.3.
SQUARES = {16: 0.88, 32: 0.88, 48: 0.88, 64: 0.88, 96: 0.88, 128: 0.88, 192: 0.88, 256: 0.88,
           384: 0.88, 512: 0.93, 1024: 0.93, 2048: 0.95, 4096: 0.93}  # fmt: skip
CORE = (16, 32, 64, 128, 256, 512, 1024, 2048)
# Inputs and outputs of the dense layers of measured.md's networks; their products are forward
# (batch, out, in: nt), dx (batch, in, out: nn) and dw (out, in, batch: tn).
LAYERS = ((784, 64), (64, 64), (64, 10), (4096, 512), (512, 10), (784, 400), (400, 20))
BATCHES = (1, 8, 32, 128)
CORE_LAYERS = ((784, 64, 32), (4096, 512, 128), (64, 10, 1))
# m, n, k of transformers: BERT base and large, a decoder.
TRANSFORMERS = ((128, 2304, 768), (128, 768, 768), (128, 3072, 768), (128, 768, 3072),
                (384, 1024, 1024), (384, 4096, 1024), (384, 1024, 4096), (40, 1024, 1024),
                (4, 1024, 1024), (788, 768, 3072))  # fmt: skip
# Heads, m, n, k, storage: scores (q k^T) and their product with the values.
ATTENTION = ((12, 128, 128, 64, "nt"), (12, 128, 64, 128, "nn"), (12, 384, 384, 64, "nt"),
             (12, 384, 64, 384, "nn"), (16, 40, 40, 64, "nt"), (16, 40, 64, 40, "nn"))  # fmt: skip
# Awkward sizes and their neighbours, of whose rate 0.9 is promised.
ODD = {31: 32, 65: 64, 127: 128, 257: 256, 1000: 1024}


def _operands(arrays: Arrays, trans: str) -> tuple[Any, Any]:
    """Views of the matrices that are multiplied: what a NumPy user writes."""
    a, b = arrays["a"], arrays["b"]
    return (
        a.swapaxes(-1, -2) if trans[0] == "t" else a,
        b.swapaxes(-1, -2) if trans[1] == "t" else b,
    )


def _product(
    m: int,
    n: int,
    k: int,
    dtype: str = "float32",
    *,
    trans: str = "nn",
    batch: int = 0,
    padding: int = 0,
    name: str = "",
    target: Target | None = None,
    ceiling: str = "",
    detail: bool = True,
) -> Case:
    """`padding` columns lie between the rows of every operand (a leading dimension of its own)."""
    lead = (batch,) if batch else ()
    itemsize = np.dtype(dtype).itemsize

    def matrix(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
        return normal(rng, *lead, rows, columns + padding, dtype=dtype)[..., :columns]

    def inputs(rng: np.random.Generator) -> Arrays:
        return {
            "a": matrix(rng, *((k, m) if trans[0] == "t" else (m, k))),
            "b": matrix(rng, *((n, k) if trans[1] == "t" else (k, n))),
            "out": np.zeros((*lead, m, n + padding), dtype)[..., :n],
        }

    def hotloop(arrays: Arrays) -> Call:
        a, b = _operands(arrays, trans)
        out, gemm = arrays["out"], hl.kernels.gemm
        return lambda: gemm(a, b, out=out)

    def numpy(arrays: Arrays) -> Call:
        a, b = _operands(arrays, trans)
        out = arrays["out"]
        return lambda: np.matmul(a, b, out=out)

    def torch(torch: Any, t: dict[str, Any]) -> Call:
        a, b = _operands(t, trans)
        return lambda: torch.matmul(a, b, out=t["out"])

    def jax(jax: Any) -> Any:
        def product(a: Any, b: Any) -> Any:
            a, b = _operands({"a": a, "b": b}, trans)
            return a @ b

        return product

    rivals: dict[str, Build] = {
        "hotloop": hotloop,
        "numpy": numpy,
        "torch": torch_call(torch),
        "jax": jax_call(jax, ("a", "b")),
    }
    if trans == "nn" and not padding:
        rivals["onnxruntime"] = onnx_call("MatMul", ("a", "b"))
    stored = "" if trans == "nn" else f" {trans}"
    ahead = f"{batch} times " if batch else ""
    return Case(
        family="gemm",
        name=name or f"{ahead}{m}x{n}x{k}{stored} f{8 * itemsize}",
        inputs=inputs,
        contenders=rivals,
        flops=2.0 * m * n * k * max(batch, 1),
        bytes=float(itemsize) * (m * k + k * n + m * n) * max(batch, 1),
        ceiling=ceiling or ("fma" if itemsize == 4 else "fma64"),
        rtol=1e-4 if itemsize == 4 else 1e-12,
        target=target,
        quick=m == n == k and m <= 64 and not batch,
        detail=detail,
        tags=frozenset({"blas"}),
    )


def _beside(case: Case, size: int, neighbour: int, share: float = 0.9) -> Case:
    """The square with its neighbour as the plain way: a share of its rate, not of its time."""

    def plain(_: Arrays) -> Call:
        rng = np.random.default_rng(0)
        a, b = normal(rng, neighbour, neighbour), normal(rng, neighbour, neighbour)
        out, gemm = np.zeros_like(a), hl.kernels.gemm
        return lambda: gemm(a, b, out=out)

    return replace(
        case,
        contenders={**case.contenders, "plain": plain},
        target=Target("plain", round(share * (neighbour / size) ** 3, 3)),
        compare=False,  # the neighbour's product is another one
    )


def _stored(size: int, trans: str) -> Case:
    """The square with operands stored in another way; at 1024 beside plain storage."""
    case = _product(size, size, size, trans=trans, detail=size != 1024)
    if size != 1024:
        return case
    return replace(_beside(case, size, size, 0.95), spread=("NN, NT, TN, TT at 1024³", 0.95))


def _alone(size: int) -> Case:
    """The square on one thread, beside the ceiling of one core."""
    case = _product(size, size, size, target=Target("ceiling", 0.95), detail=size not in CORE)
    ours = {"hotloop": case.contenders["hotloop"]}
    return replace(case, name=f"{case.name}, one thread", contenders=ours, threads=1)


def _layer_products() -> list[Case]:
    """Forward, dx and dw of every dense layer."""
    cases = []
    for features, outputs in LAYERS:
        for batch in BATCHES:
            detail = (features, outputs, batch) not in CORE_LAYERS
            for what, m, n, k, trans in (
                ("forward", batch, outputs, features, "nt"),
                ("dx", batch, features, outputs, "nn"),
                ("dw", outputs, features, batch, "tn"),
            ):
                name = f"{what} {batch}, {features}->{outputs} f32"
                target = Target("best", 1.3, 0.88)
                cases.append(
                    _product(m, n, k, trans=trans, name=name, target=target, detail=detail)
                )
    return cases


def _linear(rows: int, features: int, outputs: int) -> Case:
    def inputs(rng: np.random.Generator) -> Arrays:
        return {
            "x": normal(rng, rows, features),
            "w": normal(rng, outputs, features),
            "b": normal(rng, outputs),
            "out": np.zeros((rows, outputs), np.float32),
        }

    def ours(arrays: Arrays) -> Call:
        x, w, b, out = (arrays[name] for name in ("x", "w", "b", "out"))
        linear = hl.kernels.linear
        return lambda: linear(x, w, b, activation="relu", out=out)

    def numpy(arrays: Arrays) -> Call:
        x, w, b, out = (arrays[name] for name in ("x", "w", "b", "out"))

        def call() -> Any:
            np.matmul(x, w.T, out=out)
            np.add(out, b, out=out)
            return np.maximum(out, 0, out=out)

        return call

    return Case(
        family="gemm",
        name=f"linear+relu {rows}, {features}->{outputs} f32",
        inputs=inputs,
        contenders={
            "hotloop": ours,
            "numpy": numpy,
            "torch": torch_call(
                lambda torch, t: (
                    lambda: torch.relu_(torch.nn.functional.linear(t["x"], t["w"], t["b"]))
                )
            ),
            "jax": jax_call(
                lambda jax: lambda x, w, b: jax.numpy.maximum(x @ w.T + b, 0), ("x", "w", "b")
            ),
        },
        flops=2.0 * rows * features * outputs,
        bytes=4.0 * (rows * features + outputs * features + outputs + rows * outputs),
        ceiling="fma",
        tags=frozenset({"blas"}),
        quick=rows * features * outputs < 200_000,
    )


def _square_target(size: int) -> Target:
    share = SQUARES[size]
    return Target("ceiling", share) if size >= 512 else Target("best", 1.3, share)


CASES = [
    *(
        _product(size, size, size, target=_square_target(size), detail=size not in CORE)
        for size in SQUARES
    ),
    *(_alone(size) for size in SQUARES if size >= 512),
    *(_stored(size, trans) for size in (64, 256, 1024) for trans in ("nt", "tn", "tt")),
    *_layer_products(),
    *(
        _product(m, 4096, 4096, trans=trans, ceiling="read", target=Target("ceiling", share),
                 detail=trans == "nt")
        for m, share in ((1, 0.95), (8, 0.90))
        for trans in ("nn", "nt")
    ),
    *(
        _product(m, n, k, target=Target("best", 1.1, 0.92), detail=(m, n) != (128, 768))
        for m, n, k in TRANSFORMERS
    ),
    *(
        _product(m, n, k, trans=trans, batch=batch, target=Target("best", 1.1, 0.92),
                 detail=m != 128)
        for batch, m, n, k, trans in ATTENTION
    ),
    *(
        _beside(_product(size, size, size, detail=size != 127), size, neighbour)
        for size, neighbour in ODD.items()
    ),
    *(
        _beside(_product(512, 512, 512, padding=padding,
                         name=f"512x512x512 f32, ld {512 + padding}"), 512, 512)
        for padding in (16, 512)
    ),
    *(
        _product(size, size, size, "float64", target=Target("best", 1.05, 0.93), detail=size != 512)
        for size in (64, 128, 256, 512, 1024, 2048)
    ),
    _linear(32, 64, 64),
    _linear(128, 784, 512),
    *_gemm_bf16.CASES,
    *_gemm_int8.CASES,
]  # fmt: skip
