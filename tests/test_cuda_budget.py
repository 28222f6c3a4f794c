"""Every .cu compiles for the development architectures without spills, within its budget of
registers and shared memory. Needs nvcc; a GPU is not needed."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "csrc/kernels/cuda/check_budget.py"


def load():
    spec = importlib.util.spec_from_file_location("check_budget", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


budget = load()


@pytest.mark.parametrize("family", budget.families())
def test_the_compiler_keeps_to_the_budget(family):
    if os.environ.get("HOTLOOP_BUDGET_CHECKED"):
        pytest.skip("checked before: .ci/run cuda")
    nvcc = budget.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc: CUDA KERNELS WERE NOT COMPILED and their budget was not checked")
    if os.environ.get("HOTLOOP_SMALL") or "clang" in os.environ.get("CXX", ""):
        pytest.skip("nvcc says the same whatever the host's compiler is")
    faults, changed = budget.check_family(nvcc, family)
    assert not faults, "\n".join(faults)
    if changed:
        pytest.skip(f"NOT IN THE BUDGET YET, {budget.COMMAND}: {'; '.join(changed)}")


def test_the_budget_is_sound():
    """Registers and shared memory as a GPU has them. Nothing lies in local memory, but in float64,
    and for the table by which CUDA's sin and cos reduce large numbers."""
    known = json.loads(budget.BUDGET.read_text(encoding="utf-8"))
    assert known["numbers"] == list(budget.FIELDS)
    assert {"gemm", "conv", "pool"} <= set(known["families"])
    for family, architectures in known["families"].items():
        assert sorted(architectures) == sorted(budget.ARCHITECTURES), family
        for arch, kernels in architectures.items():
            for name, (registers, shared, stack, spills) in kernels.items():
                where = f"{family}, sm_{arch}: {name}"
                assert 0 < registers <= 255, where
                assert shared <= 48 * 1024, where
                assert stack == spills == 0 or any(
                    part in name for part in ("double", "sin_value", "cos_value")
                ), where


def test_what_exceeds_the_budget_is_told():
    then = {"80": {"f": [40, 0, 0, 0]}, "90a": {}}
    more = {"80": {"f": [49, 8, 0, 0]}, "90a": {"g": [40, 0, 8, 4]}}
    faults = budget.compare("gemm", more, then)
    assert len(faults) == 4
    assert "gemm, sm_80: f: registers must stay within 40 (+8), got 49" in faults[0]
    assert "shared must stay within 0" in faults[1]
    assert "gemm, sm_90a: g: stack must stay within 0" in faults[2]
    assert budget.changed(more, then) == ["sm_90a: g is new"]
    assert budget.changed({"80": {}, "90a": {}}, then) == ["sm_80: f is gone"]
    assert budget.compare("gemm", {"80": {"f": [48, 0, 0, 0]}}, then) == []
