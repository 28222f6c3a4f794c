"""The argument structs that tests fill by ctypes are those of the headers, member by member."""

from __future__ import annotations

import ctypes
import os
import subprocess

import cuda_args
import test_cuda_conv
import test_cuda_gemm
import test_cuda_pool
from emulated import CSRC, compiler

TWINS = {
    **{
        name: twin
        for name, twin in vars(cuda_args).items()
        if isinstance(twin, type) and issubclass(twin, ctypes.Structure)
    },
    "math::OptimizerScalars<double>": cuda_args.OptimizerScalars,
    "ConvProblem": test_cuda_conv.Problem,
    "ConvImage": test_cuda_conv.Steps,
    "ConvKernel": test_cuda_conv.Steps,
    "ConvPassArgs": test_cuda_conv.Pass,
    "GemmMatrix": test_cuda_gemm.Matrix,
    "GemmProblem": test_cuda_gemm.Problem,
    "PoolAxis": test_cuda_pool.Axis,
    "PoolArgs": test_cuda_pool.Args,
}
del TWINS["OptimizerScalars"]
# Members that a twin holds as one array, or without the struct around them: the first of them.
MEMBERS = {
    ("ConvImage", "steps"): "stride_n",
    ("ConvKernel", "steps"): "stride_o",
    ("PoolAxis", "tables"): "start",
    **{
        ("ConvPassArgs", name): f"epilogue.{name}"
        for name in ("bias", "bias_stride", "activation", "activation_alpha", "residual")
    },
}


def faults(twins: dict[str, type[ctypes.Structure]]) -> str:
    """What the compiler says of them; nothing where all agree."""
    lines = [f'#include "{path.relative_to(CSRC)}"' for path in sorted(CSRC.glob("kernels/*.h"))]
    lines += ["#include <cstddef>", "using namespace hotloop;"]
    for name, twin in twins.items():
        lines.append(f'static_assert(sizeof({name}) == {ctypes.sizeof(twin)}, "{name}");')
        for field in twin._fields_:
            member, offset = MEMBERS.get((name, field[0]), field[0]), getattr(twin, field[0]).offset
            holds = f"__builtin_offsetof({name}, {member}) == {offset}"
            lines.append(f'static_assert({holds}, "{name}::{member}");')
    environment = {name: text for name, text in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        [compiler(), "-std=c++20", "-fsyntax-only", "-Wno-invalid-offsetof", f"-I{CSRC}",
         "-x", "c++", "-"],
        input="\n".join(lines), capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    return "\n".join(line for line in done.stderr.splitlines() if "error" in line)


def test_twins_are_those_of_the_headers():
    assert len(TWINS) > 20
    assert faults(TWINS) == ""


def test_a_twin_that_is_behind_is_found():
    class Short(ctypes.Structure):
        _fields_ = cuda_args.DropoutArgs._fields_[:-1]

    class Moved(ctypes.Structure):
        _fields_ = (("x", ctypes.c_int64 * 2), *cuda_args.DropoutArgs._fields_[1:])

    assert "DropoutArgs" in faults({"DropoutArgs": Short})
    assert "DropoutArgs::y" in faults({"DropoutArgs": Moved})
