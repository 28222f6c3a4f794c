"""bench/device_check.py on the emulated device: it runs, finds faults, and keeps what it found."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cuda_library

BENCH = Path(__file__).resolve().parent.parent / "bench"
SCRIPT = BENCH / "device_check.py"


def load():
    spec = importlib.util.spec_from_file_location("device_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load()  # and with it the folder of the modules beside it
import device_cases  # noqa: E402
import device_rivals  # noqa: E402


def run(out: Path, *arguments: str) -> tuple[int, dict]:
    library = shutil.copy(cuda_library.library(), out / "hotloop_cuda_emulated.so")  # stays there
    environment = {**os.environ, "HOTLOOP_CHECK_LIBRARY": str(library)}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", out, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=500,
    )
    assert (out / "results.json").exists(), done.stdout + done.stderr
    return done.returncode, json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_a_small_run_in_subprocesses(tmp_path):
    only = "ceilings,conv,pool,elementwise,norm,optimizer,reduce_along,embedding,dropout,random"
    only += ",device_copy"
    code, results = run(tmp_path, "--budget", "400", "--only", only)
    bad = [c for c in results["cases"] if "failure" in c or c.get("passed") is False]
    assert not bad
    assert code == 0
    kinds = {case["kind"] for case in results["cases"]}
    assert kinds == {"ceiling", "correctness", "time"}
    checked = {c["family"] for c in results["cases"] if c["kind"] == "correctness"}
    assert checked == {*only.split(",")} - {"ceilings"}
    assert results["emulated"]
    assert set(results["sources"]) >= checked
    # Another run keeps what it does not repeat.
    number = len(results["cases"])
    code, results = run(tmp_path, "--budget", "400", "--only", "activation")
    assert code == 0
    pieces = [case["piece"] for case in results["cases"]]
    assert len(pieces) > number
    assert pieces[:2] == ["ceilings", "conv:check"]
    assert {"activation:check", "activation:time"} <= set(pieces)
    # What ran on the CPU verifies nothing.
    (tmp_path / "gpu").mkdir()
    (tmp_path / "results.json").rename(tmp_path / "gpu" / "results.json")
    assert f"- all kernels: {check.LABEL}\n" in check.markdown(tmp_path)


def test_whole_steps_in_a_subprocess_stay_on_the_device(tmp_path):
    code, results = run(tmp_path, "--budget", "400", "--only", "steps")
    assert code == 0, results["cases"]
    steps = {c["name"]: c for c in results["cases"]}
    assert set(steps) == {f"{n}, {o}" for n in ("MLP", "CNN", "norms") for o in ("SGD", "AdamW")}
    for step in steps.values():
        assert step["crossings"] == 0
        assert step["graph_ms"] > 0


def test_the_sanitizer_subprocess_where_there_is_one(tmp_path, monkeypatch):
    """With a stand-in that finds a race, and one tool that does not work."""
    fake = tmp_path / "compute-sanitizer"
    fake.write_text(
        "#!/bin/sh\ncase $2 in racecheck) echo a race; exit 99 ;; synccheck) exit 3 ;; esac\n",
        encoding="utf-8",
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = {record["name"]: record for record in check.run_sanitizer(60.0)}
    assert list(found) == list(check.TOOLS)
    assert found["memcheck"]["passed"]
    assert found["racecheck"]["failure"] == "a race\n"
    assert "missing" in found["synccheck"]
    monkeypatch.setattr(check.shutil, "which", lambda name: None)
    assert "not on the PATH" in next(check.run_sanitizer(1.0))["missing"]


CASES = [case for family in device_cases.correctness().values() for case in family if case.torch]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rivals_do_the_same_work(case):
    """Their calls, on the CPU: the numbers are ours, and the code that times them runs."""
    torch = pytest.importorskip("torch")
    arrays = case.arrays(7)
    want = check.parts(case.call(*[a.astype(float) if a.dtype == "f4" else a for a in arrays]))
    got = {"torch": case.torch(torch, *map(torch.from_numpy, arrays))}
    if case.jax and importlib.util.find_spec("jax"):
        got["jax"] = case.jax(importlib.import_module("jax.numpy"), *arrays)
    for results in got.values() if case.agreed else ():
        for ours, theirs in zip(want, check.parts(results), strict=True):
            theirs = np.asarray(theirs)
            assert np.linalg.norm(theirs - ours) <= 1e-4 * np.linalg.norm(ours) + 1e-6
    spent = dict(device_rivals.rivals(case, 2, dry=True))
    for name in ("torch", "torch TF32", *(["jax"] if "jax" in got else [])):
        assert spent[name]["ms"] > 0, spent[name]


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("name", ["MLP", "CNN", "norms"])
def test_steps_of_the_rival(name, optimizer):
    torch = pytest.importorskip("torch")
    make, shape, classes = device_cases.networks(True)[name]
    spent = device_rivals.torch_step(make(torch.nn), shape, classes, optimizer, dry=True)
    assert set(spent) == {"eager_ms", "graph_ms"}
    for used in vars(device_rivals.CpuCuda):  # the stand-in has no name that is not PyTorch's
        assert used.startswith("_") or hasattr(torch.cuda, used)


def test_no_time_left_is_said(tmp_path):
    results = check.run_all(tmp_path, 0.0, ["gemm"])
    assert results["cases"] == [
        {"kind": "end", "piece": f"gemm:{what}", "failure": "out of time"}
        for what in ("check", "time")
    ]


def test_behind_a_case_that_hangs_or_faults_it_goes_on(tmp_path, monkeypatch):
    """A stand-in for this script: its second case hangs, its fourth ends the process."""
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, sys, time\n"
        "for i in range(int(sys.argv[-1]), 6):\n"
        "    if i == 1: time.sleep(90)\n"
        "    if i == 3: os.abort()\n"
        '    print(\'{"kind": "time", "name": "%d"}\' % i, flush=True)\n',
        encoding="utf-8",
    )
    monkeypatch.setattr(check, "__file__", str(script))
    monkeypatch.setattr(check, "CASE_SECONDS", 8.0)
    found = list(check.run_piece("gemm:time", 100.0))
    told = [record.get("name", record["kind"]) for record in found]
    assert told == ["0", "end", "2", "end", "4", "5"]
    assert "no result within" in found[1]["failure"]


def test_every_family_is_checked():
    assert set(check.FAMILIES) == set(device_cases.correctness()) == set(check.source_hashes())
    assert set(device_cases.timed()) <= set(check.FAMILIES)
    assert sorted(check.PIECES) == sorted({piece.partition(":")[0] for piece in check.PLAN})


def test_the_table_is_made_from_the_results(tmp_path):
    committed = check.markdown(check.TABLE.parent)
    assert check.TABLE.read_text(encoding="utf-8") == committed, "run: device_check.py --table"
    hashes = check.source_hashes()
    folder = tmp_path / "h200"
    folder.mkdir()
    case = {"kind": "correctness", "family": "gemm", "name": "a", "passed": True}
    timed = {"kind": "time", "family": "gemm", "name": "b", "ms": 2.0, "tflops": 3.0,
             "rivals": {"torch": {"ms": 1.0}, "jax": {"missing": "x"}}}  # fmt: skip
    results = {"environment": {"gpu": "G", "date": "D"}, "sources": hashes, "cases": [case, timed]}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    table = check.markdown(tmp_path)
    assert "- gemm: verified on h200\n" in table
    assert f"- the other kernels: {check.LABEL}\n" in table
    assert "conv" not in table
    assert "| b | 2 | 3 |  | 0.50× |  |  |  |" in table
    results["sources"] = {**hashes, "gemm": "changed"}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert f"- all kernels: {check.LABEL}\n" in check.markdown(tmp_path)


def test_hashes_follow_what_is_included():
    names = {path.name for path in check.closure(check.CUDA / "conv.cu")}
    assert {"conv.cu", "conv_load.cuh", "product_tile.cuh", "kernel.cuh", "conv.h"} <= names
    assert len(set(check.source_hashes().values())) == len(check.source_hashes())


@pytest.mark.parametrize("arguments", [[], ["--out", "x", "--only", "nothing"]])
def test_wrong_arguments(arguments):
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "error" in done.stderr
