"""The command line: what it says, where it says it, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import hotloop as hl
from hotloop.__main__ import main


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "hotloop", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )


def test_info_says_what_and_why(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    config = hl.show_config()
    for text in (config.version, config.cpu_features, config.level_reason, config.threads_reason):
        assert text in out
    assert "CUDA:" in out
    if not hl.cuda.is_available():
        assert f"no: {hl.cuda.unavailable_reason()}" in out


def test_info_for_programs(capsys):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["level"] == hl.show_config().level
    assert found["threads"] == hl.get_num_threads()
    assert found["cuda"] is hl.cuda.is_available()
    assert bool(found["cuda_reason"]) is not found["cuda"]


def test_info_as_a_subprocess():
    done = run("info", "--json", HOTLOOP_ISA="generic", HOTLOOP_NUM_THREADS="1")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["level"], found["threads"]) == ("generic", 1)
    assert "HOTLOOP_ISA" in found["level_reason"]


def test_an_unknown_level_is_an_error_of_one_line_in_a_subprocess():
    done = run("info", HOTLOOP_ISA="avx9000")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("hotloop: ")
    assert "avx9000" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["info", "--xml"],
        ["demo", "--epochs", "-1"],
        ["demo", "--epochs", "many"],
        ["demo", "--seed", "-3"],
        ["demo", "--threads", "0"],
        ["demo", "--threads", "9999"],
    ],
)
def test_wrong_usage_is_exit_code_2(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: hotloop" in captured.err


def test_help_and_version(capsys):
    for arguments, text in ((["--help"], "info"), (["--version"], hl.__version__)):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert text in capsys.readouterr().out


def test_failures_are_exit_code_1(capsys, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    assert main(["demo", "--output-dir", str(tmp_path / "missing")]) == 1
    captured = capsys.readouterr()
    assert "demo: --output-dir must be a folder" in captured.err
    assert captured.out == ""


def test_missing_extras_are_named(capsys, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["demo"]) == 1
    error = capsys.readouterr().err
    assert 'pip install "hotloop[demo]"' in error
    assert "scikit-learn" in error
    assert "matplotlib" in error


def test_bench_lists_its_cases(capsys):
    assert main(["bench", "--list"]) == 0
    assert capsys.readouterr().out


def test_cuda_gives_its_reason():
    assert hl.cuda.is_available() is not bool(hl.cuda.unavailable_reason())
    assert hl.cuda.is_available() is (hl.cuda.device_count() > 0)
