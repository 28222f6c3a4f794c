"""How calls of gemm reach the kernel: the short way of small dense products, and the long one."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop.kernels import gemm


@pytest.mark.parametrize("trans", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize(
    "shape",
    [(2, 2, 2), (16, 16, 16), (5, 70, 33), (64, 3, 200), (70, 90, 2),
     (1, 1, 1), (1, 64, 10), (1, 70, 33), (9, 1, 40), (9, 7, 1), (1, 5, 1), (5, 1, 1), (1, 1, 30)],
)  # fmt: skip
def test_the_short_way_gives_the_same_bits(level, dtype, shape, trans, views, rng):
    """Dense operands, also transposes of such, and a dense `out` skip what other arrays need."""
    m, n, k = shape
    options = {"trans_a": trans[0] == "t", "trans_b": trans[1] == "t"}
    a = rng.standard_normal((k, m) if options["trans_a"] else (m, k)).astype(dtype)
    b = rng.standard_normal((n, k) if options["trans_b"] else (k, n)).astype(dtype)
    if views:  # in Fortran's order
        a, b = np.asfortranarray(a), np.asfortranarray(b)
    memory = np.full(m * n + 2, 7, dtype)
    out = memory[1:-1].reshape(m, n)
    assert gemm(a, b, out=out, **options) is out
    assert out.tobytes() == gemm(a, b, **options).tobytes()
    assert memory[0] == memory[-1] == 7
    left, right = (a.T if options["trans_a"] else a), (b.T if options["trans_b"] else b)
    np.testing.assert_allclose(out, left.astype("f8") @ right.astype("f8"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize(("m", "k"), [(40, 700), (300, 65), (7, 2100)])
def test_a_column_with_gaps_is_gathered_first(level, dtype, m, k, batch, rng):
    """As in a @ a[:, :1]: dots with the rows of a, which read a copy of the column."""
    lead = (batch,) if batch else ()
    a = rng.integers(-4, 5, (*lead, m, k)).astype(dtype)
    column = rng.integers(-4, 5, (*lead, k, 3)).astype(dtype)[..., 1:2]
    out = gemm(a, column)
    np.testing.assert_array_equal(out, a @ column)
    assert out.tobytes() == gemm(a, np.ascontiguousarray(column)).tobytes()
    shared = column.reshape(-1, k, 1)[0]
    np.testing.assert_array_equal(gemm(a, shared), a @ shared)


def test_the_short_way_leaves_errors_to_the_long_one():
    memory = np.ones(64, np.float32)
    a, b, out = (memory[i : i + 16].reshape(4, 4) for i in (0, 16, 32))
    for wrong in (memory[1:17], memory[15:31], memory[31:47]):
        with pytest.raises(hl.OutputError, match="out must not overlap"):
            gemm(a, b, out=wrong.reshape(4, 4))
    gemm(a, b, out=out)
    with pytest.raises(hl.DTypeError, match="out must be float32"):
        gemm(a, b, out=np.ones((4, 4)))
    with pytest.raises(hl.ShapeError, match=r"out must have shape \(4, 4\)"):
        gemm(a, b, out=memory[48:56].reshape(4, 2))
    with pytest.raises(hl.ShapeError, match="the columns of a must equal the rows of b"):
        gemm(a, memory[48:56].reshape(2, 4), out=out)
    out.flags.writeable = False
    with pytest.raises(hl.OutputError, match="read-only"):
        gemm(a, b, out=out)
