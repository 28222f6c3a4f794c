"""The choice of a level: what is supported, what is forced, what is said about it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import hotloop as hl
from hotloop import _core
from hotloop.kernels import force_isa

NAMES = ("generic", "avx2", "avx512", "avx512bf16")


def in_new_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "HOTLOOP_ISA"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_supported_levels_are_a_chain():
    supported = _core.supported_levels()
    assert supported == NAMES[: len(supported)]
    assert supported[0] == "generic"


def test_the_call_alone_forces_nothing_but_checks():
    before = _core.level()
    force_isa("generic")
    assert _core.level() == before
    with pytest.raises(ValueError, match="avx9000"):
        force_isa("avx9000")


def test_every_supported_level_can_be_forced():
    before = _core.level()
    for name in _core.supported_levels():
        with force_isa(name):
            assert _core.level() == name
            assert _core.level_reason() == f"{name}: set by force_isa"
            assert hl.show_config().level == name
    assert _core.level() == before


def test_forcing_nests_and_ends_with_an_exception():
    before = _core.level_reason()
    best = _core.supported_levels()[-1]

    def fail():
        with force_isa(best):
            assert _core.level() == best
        assert _core.level() == "generic"
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), force_isa("generic"):
        fail()
    assert _core.level_reason() == before


@pytest.mark.parametrize("name", ["", "AVX2", "avx1024", "sse"])
def test_unknown_level(name):
    with (
        pytest.raises(
            ValueError, match="force_isa: the level must be one of generic, avx2"
        ) as raised,
        force_isa(name),
    ):
        pass
    for supported in _core.supported_levels():
        assert supported in str(raised.value)
    assert f"'{name}'" in str(raised.value)


def test_unsupported_level():
    missing = [name for name in NAMES if name not in _core.supported_levels()]
    if not missing:
        pytest.skip("this CPU supports every level")
    with pytest.raises(ValueError, match="this CPU must support the level"), force_isa(missing[0]):
        pass


def test_features_go_with_levels():
    features = _core.cpu_features().split()
    needed = {
        "avx2": {"avx2", "fma"},
        "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
        "avx512bf16": {"avx512bf16", "avx512vnni", "avx512vbmi"},
    }
    for level, names in needed.items():
        if level in _core.supported_levels():
            assert names <= set(features)


def test_levels_compute_with_their_own_code():
    """Fused multiply-adds round once, so these sums differ between generic and the others."""
    x = np.random.default_rng(0).uniform(1, 2, 64)
    bits = set()
    for name in _core.supported_levels():
        with force_isa(name):
            p, m, v = np.zeros(64), x.copy(), x.copy()
            hl.kernels.adam_step(p, x / 3, m, v, lr=0.1, step=3)
            bits.add((p.tobytes(), m.tobytes(), v.tobytes()))
    if len(_core.supported_levels()) > 1:
        assert len(bits) > 1


def test_environment_chooses_the_level():
    code = "from hotloop import _core; print(_core.level_reason())"
    for name in _core.supported_levels():
        done = in_new_process(code, HOTLOOP_ISA=name)
        assert done.stdout == f"{name}: set by HOTLOOP_ISA\n", done.stderr
    done = in_new_process(code, HOTLOOP_ISA="")
    assert "best level" in done.stdout, done.stderr


def test_environment_with_an_unknown_level():
    """The import works; the first kernel says what is wrong, every time it is asked."""
    code = (
        "import numpy as np, hotloop as hl\n"
        "for _ in range(2):\n"
        "    try: hl.kernels.dropout(np.ones(3))\n"
        "    except ValueError as error: print(error)\n"
        "with hl.kernels.force_isa('generic'): print(hl.kernels.dropout(np.ones(3), 0.0))\n"
    )
    done = in_new_process(code, HOTLOOP_ISA="avx3")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == 3
    assert lines[0] == lines[1]
    assert lines[0].startswith("HOTLOOP_ISA: the level must be one of generic, avx2")


def test_config_reads_as_a_table():
    text = str(hl.show_config())
    assert text.startswith(f"hotloop:        {hl.__version__}\n")
    assert _core.level_reason() in text
    assert _core.num_threads_reason() in text
