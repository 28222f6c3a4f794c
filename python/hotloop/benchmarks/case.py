"""What a benchmark is: a case with its arrays, its work, and what each contender does with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Call = Callable[[], Any]
# Takes the arrays of a case and returns a call without arguments: what is timed. What the call
# returns is compared with hotloop's result, once, before anything is timed.
Build = Callable[[Arrays], Call]

# "plain" is hotloop's own plainer way: layers one by one, the direct algorithm.
CEILING = "ceiling"
CONTENDERS = (
    *("hotloop", "plain", "numpy", "numpy-skylakex", "torch", "jax", "onnxruntime", CEILING),
)
OURS = ("hotloop", "plain", CEILING)  # all that is not a rival's


@dataclass(frozen=True)
class Target:
    """A figure that was promised: `rival`'s time over ours is at least `ratio`.

    The rival "best" is the fastest of all, our own plain way aside. `ceiling` is the share of the
    ceiling that keeps the promise as well, where rivals leave no room for the ratio.
    """

    rival: str
    ratio: float
    ceiling: float | None = None


@dataclass(frozen=True)
class Case:
    """One row of the table.

    `contenders` maps a name of CONTENDERS to its build, or to several builds by variant (memory
    formats, flags), of which the fastest counts: a rival is shown at its best settings.
    "numpy-skylakex" does what "numpy" does, in a process whose OpenBLAS takes its AVX-512 kernels.
    """

    family: str
    name: str
    inputs: Callable[[np.random.Generator], Arrays]
    contenders: Mapping[str, Build | Mapping[str, Build]]
    flops: float = 0.0  # inside the image: padding taps are no work
    bytes: float = 0.0  # each tensor once
    touched: float = 0.0  # bytes of memory that an in-place ceiling walks, if not half of `bytes`
    ceiling: str = ""  # the probe that bounds it: fma, fma64, dot_bf16, dot_int8, read, copy, ...
    # The arrays that a ceiling of memory walks, sources first: beside the case, in its process.
    # Without them it walks arrays of its own.
    over: tuple[str, ...] = ()
    rtol: float = 1e-4  # of the largest element
    compare: bool = True  # False where the result is random or a state that moves with each call
    target: Target | None = None
    mean: tuple[str, Target] | None = None  # the group whose geometric mean is promised as well
    # The group in which the slowest keeps this share of the fastest's rate: the rows and "plain".
    spread: tuple[str, float] | None = None
    threads: int = 0  # of ours and of the ceiling, where not the table's number; without rivals
    quick: bool = False  # small enough for `--quick`
    detail: bool = False  # timed with `--all`, or where `--match` finds it
    note: str = ""
    error: Callable[[], float] | None = None  # of the result, as a share of the largest element
    ulp: str = ""  # the function whose worst error in float32 stands beside the figures
    tags: frozenset[str] = field(default_factory=frozenset)

    @property
    def key(self) -> str:
        return f"{self.family}: {self.name}"

    def builds(self, contender: str) -> dict[str, Build]:
        """The variants of a contender, the plain one under ""."""
        name = "numpy" if contender == "numpy-skylakex" and "blas" in self.tags else contender
        found = self.contenders.get(name, {})
        return dict(found) if isinstance(found, Mapping) else {"": found}


def normal(rng: np.random.Generator, *shape: int, dtype: str = "float32") -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.dtype(dtype).type)
