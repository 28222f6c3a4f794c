"""Importing is silent and cheap, starts no thread and leaves the floating-point state alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def fresh(code: str, *flags: str, cwd: Path) -> str:
    """What a new interpreter prints that runs this code."""
    run = subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def test_import_prints_nothing_and_warns_of_nothing(tmp_path):
    assert fresh("import hotloop", "-W", "error", cwd=tmp_path) == ""


def test_import_loads_no_heavy_library(tmp_path):
    heavy = "sklearn matplotlib torch PIL scipy tqdm jax onnxruntime onnx pandas subprocess"
    code = (
        "import sys, numpy; before = set(sys.modules); import hotloop\n"
        f"print(*(name for name in {heavy.split()} if name in set(sys.modules) - before))"
    )
    assert fresh(code, cwd=tmp_path).split() == []


def test_import_adds_few_modules(tmp_path):
    code = (
        "import sys, numpy; before = set(sys.modules); import hotloop\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    assert len(fresh(code, cwd=tmp_path).split()) < 150


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_import_starts_no_thread(tmp_path):
    code = (
        "import os, numpy\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "import hotloop\n"
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    assert fresh(code, cwd=tmp_path).split() == ["0"]


def test_import_and_use_leave_floating_point_as_it_was(tmp_path):
    code = (
        "import numpy as np\n"
        "import hotloop as hl\n"
        "def denormals_live():\n"
        "    tiny = np.full(64, 1e-40, np.float32)\n"
        "    return bool((tiny * np.float32(0.5) > 0).all()) and 5e-324 / 1 > 0\n"
        "print(denormals_live())\n"
        "x = np.ones(1 << 20, np.float32)\n"
        "hl.kernels.relu(x)\n"
        "print(denormals_live())"
    )
    assert fresh(code, cwd=tmp_path).split() == ["True", "True"]


def test_import_without_the_compiled_module_says_how_to_build_it(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['hotloop._core'] = None\n"
        "try:\n"
        "    import hotloop\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    assert "pip install" in fresh(code, cwd=tmp_path)


def test_import_does_not_open_a_network_or_a_process(tmp_path):
    code = (
        "import sys, numpy\n"
        "seen = []\n"
        "watched = ('socket.', 'subprocess.', 'os.system', 'os.fork', 'os.posix_spawn')\n"
        "def note(name, _):\n"
        "    if name.startswith(watched):\n"
        "        seen.append(name)\n"
        "sys.addaudithook(note)\n"
        "import hotloop\n"
        "print(*seen)"
    )
    assert fresh(code, cwd=tmp_path).split() == []
