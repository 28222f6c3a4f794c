"""The programs in README.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)


def test_there_are_three_programs():
    assert len(PROGRAMS) == 3


@pytest.mark.parametrize("program", PROGRAMS, ids=["training", "kernels", "device"])
def test_a_program_runs(program, tmp_path):
    if "sklearn" in program:
        pytest.importorskip("sklearn")
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 0, run.stderr
    if "test accuracy" in program:
        accuracy = float(re.search(r"test accuracy ([\d.]+)%", run.stdout).group(1))
        assert accuracy > 95
        assert (tmp_path / "digits.safetensors").exists()
