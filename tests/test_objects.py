"""The build's check of level-compiled objects finds what it is there for, in planted sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).parent.parent / "csrc" / "check_objects.py"
COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(not shutil.which("nm") or not shutil.which("objdump"), reason="no binutils"),
    pytest.mark.skipif(not CHECK.exists(), reason="not in a source tree"),
]


def check(
    folder: Path, source: str, *flags: str, spills: str = "error"
) -> subprocess.CompletedProcess[str]:
    """Compiles the source and runs the script on the object."""
    (folder / "planted.cpp").write_text(source)
    subprocess.run(
        [COMPILER, "-std=c++20", "-O2", *flags, "-c", "planted.cpp", "-o", "planted.o"],
        cwd=folder,
        check=True,
        timeout=120,
    )
    stamp = ["--stamp", str(folder / "stamp"), "--spills", spills]
    return subprocess.run(
        [sys.executable, str(CHECK), *stamp, "planted.o"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_clean_object_passes_and_leaves_the_stamp(tmp_path):
    run = check(tmp_path, "static inline int twice(int x) { return 2 * x; }\nint f() { return 0; }")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "stamp").exists()


def test_a_weak_symbol_is_found(tmp_path):
    run = check(
        tmp_path,
        "template <class T> __attribute__((noinline)) T twice(T x) { return x + x; }\n"
        "int f(int x) { return twice(x); }",
    )
    assert run.returncode == 1
    assert "weak symbol" in run.stderr
    assert "twice" in run.stderr
    assert not (tmp_path / "stamp").exists()


def test_a_static_constructor_is_found(tmp_path):
    run = check(tmp_path, "int g();\nstatic const int kept = g();\nint f() { return kept; }")
    assert run.returncode == 1
    assert "static constructor" in run.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="looks for x86 vector registers")
def test_a_spilled_tile_is_found(tmp_path):
    accumulators = "\n".join(f"  V a{i} = b[{i}];" for i in range(40))
    updates = "\n".join(f"    a{i} = a{i} * b[k + {i}] + b[k];" for i in range(40))
    stores = "\n".join(f"  b[{i}] = a{i};" for i in range(40))
    source = (
        "typedef float V __attribute__((vector_size(32)));\n"
        f"void tile_loop(V* b, long n) {{\n{accumulators}\n"
        f"  for (long k = 0; k < n; ++k) {{\n{updates}\n  }}\n{stores}\n}}"
    )
    run = check(tmp_path, source, "-mavx2")
    assert run.returncode == 1
    assert "spills in" in run.stderr
    assert "tile_loop" in run.stderr

    # Another compiler than the one the tiles were written with: said, but no error.
    run = check(tmp_path, source, "-mavx2", spills="report")
    assert run.returncode == 0
    assert "spills in" in run.stderr
