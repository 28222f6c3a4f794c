"""The table of benchmarks: every case builds and agrees with NumPy; the command runs two cases."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import hotloop as hl

benchmarks = pytest.importorskip("hotloop.benchmarks")
from hotloop.benchmarks import ceilings, report, summary  # noqa: E402
from hotloop.benchmarks.cases._rivals import as_array  # noqa: E402
from hotloop.benchmarks.placement import placed  # noqa: E402
from hotloop.benchmarks.report import duration  # noqa: E402
from hotloop.benchmarks.runner import Row, assert_equal_results  # noqa: E402
from hotloop.benchmarks.worker import Worker  # noqa: E402

TABLE = benchmarks.cases()


def test_every_case_has_a_name_of_its_own_and_a_build_of_ours():
    assert len({case.key for case in TABLE}) == len(TABLE)
    for case in TABLE:
        assert case.builds("hotloop"), case.key
        assert case.flops or case.bytes, case.key
        assert case.family in benchmarks.families()


def test_promised_figures_are_in_the_table():
    promised = {case.family for case in TABLE if case.target is not None}
    assert {"gemm", "conv", "activation", "optimizer", "training"} <= promised


@pytest.mark.parametrize("case", [case for case in TABLE if case.quick], ids=lambda case: case.key)
def test_quick_cases_agree_with_numpy(case, tmp_path):
    for contender in ("hotloop", "numpy"):
        for build in case.builds(contender).values():
            result = build(case.inputs(np.random.default_rng(1)))()
            np.savez(tmp_path / f"{contender}.npz", *as_array(result))
    if case.compare and case.builds("numpy"):
        ours, theirs = (str(tmp_path / f"{name}.npz") for name in ("hotloop", "numpy"))
        assert_equal_results(case, "numpy", ours, theirs)


def test_a_different_result_is_refused(tmp_path):
    case = TABLE[0]
    for name, value in (("ours", 1.0), ("theirs", 1.5)):
        np.savez(tmp_path / f"{name}.npz", np.full(3, value, np.float32))
    with pytest.raises(benchmarks.BenchError, match="differs from hotloop"):
        assert_equal_results(
            case, "numpy", str(tmp_path / "ours.npz"), str(tmp_path / "theirs.npz")
        )


def test_bytes_that_differ_by_a_step_do_not_wrap_around(tmp_path):
    case = dataclasses.replace(TABLE[0], rtol=0.006)
    for name, value in (("ours", 200), ("less", 199), ("wrong", 190)):
        np.savez(tmp_path / f"{name}.npz", np.full(3, value, np.uint8))
    ours, less, wrong = (str(tmp_path / f"{name}.npz") for name in ("ours", "less", "wrong"))
    assert_equal_results(case, "torch", ours, less)
    with pytest.raises(benchmarks.BenchError, match=r"differs from hotloop by 0\.05"):
        assert_equal_results(case, "torch", ours, wrong)


def test_a_promise_is_met_from_its_ratio_on():
    case = next(case for case in TABLE if case.target is not None and case.target.rival == "numpy")
    row = Row(case, times={"hotloop": 1.0, "numpy": case.target.ratio})
    assert row.met is True
    row.times["numpy"] = case.target.ratio * 0.99
    assert row.met is False
    del row.times["numpy"]
    assert row.met is None


def test_durations_are_short_to_read():
    assert [duration(s) for s in (2.5, 0.0123, 4.56e-5, 7.8e-8)] == [
        "2.5 s",
        "12.3 ms",
        "45.6 µs",
        "78 ns",
    ]


def test_the_command_times_two_cases_in_processes_of_their_own(tmp_path):
    command = [sys.executable, "-m", "hotloop", "bench", "gemm", "--quick", "--rounds", "1"]
    command += ["--rivals", "numpy", "--match", "32", "--json", str(tmp_path / "table.json")]
    command += ["--markdown", str(tmp_path / "table.md"), "--threads", "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "gemm: 32x32x32 f32" in run.stdout
    table = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert {"hotloop", "numpy"} <= set(table["rows"][0]["seconds"])
    assert table["machine"]["versions"]["numpy"] == np.__version__
    assert "| case |" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_an_earlier_runs_rows_are_kept_where_not_timed_again(tmp_path):
    command = [sys.executable, "-m", "hotloop", "bench", "gemm", "--quick", "--rounds", "1"]
    command += ["--rivals", "numpy", "--threads", "1", "--json", str(tmp_path / "table.json")]
    how = {"capture_output": True, "text": True, "timeout": 300, "cwd": tmp_path}
    first = subprocess.run([*command, "--match", "32x32x32"], **how)
    assert first.returncode == 0, first.stderr
    second = subprocess.run([*command, "--match", "48x48", "--update", "table.json"], **how)
    assert second.returncode == 0, second.stderr
    table = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    names = [row["case"] for row in table["rows"]]
    assert any("32x32x32" in name for name in names)
    assert any("48x48" in name for name in names)
    table["machine"]["threads"] = 64
    (tmp_path / "table.json").write_text(json.dumps(table), encoding="utf-8")
    third = subprocess.run([*command, "--match", "48x48", "--update", "table.json"], **how)
    assert third.returncode == 2
    assert "threads is 1, there 64" in third.stderr


class _Rival:
    """A contender whose timings come from a list."""

    def __init__(self, *times):
        self.times = list(times)

    def load(self, case, result):
        pass

    def time(self, seconds):
        return {"": self.times.pop(0)}


class _Gauge:
    """Says what it is told to."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def wait(self):
        return self.answers.pop(0)

    def full(self):
        return self.answers.pop(0)


def test_a_timing_of_a_slow_spell_is_taken_again():
    gauge = _Gauge(True, False, False, True, True)  # before, after; before; before, after
    (row,) = benchmarks.run([TABLE[0]], {"hotloop": _Rival(9.0, 8.0, 1.0)}, rounds=1, gauge=gauge)
    assert row.rounds["hotloop"] == [1.0]
    assert row.disturbed == 0


def _memory_case(ceiling, over, size=32768):
    def inputs(rng):
        return {name: np.full(size, value, np.float32) for name, value in zip("abc", (1, 2, 0))}

    return dataclasses.replace(
        TABLE[0],
        inputs=inputs,
        contenders={"hotloop": lambda arrays: lambda: arrays["c"]},
        ceiling=ceiling,
        over=over,
        bytes=4.0 * size * len(over),
    )


@pytest.mark.parametrize(
    ("ceiling", "over", "found"),
    [("read", ("a",), 0), ("copy", ("a", "c"), 1), ("copy_nt", ("b", "c"), 2),
     ("add_nt", ("a", "b", "c"), 3)],
)  # fmt: skip
def test_a_ceiling_walks_the_cases_own_arrays(ceiling, over, found):
    case = _memory_case(ceiling, over)
    arrays = case.inputs(None)
    call, share = ceilings.beside(case, arrays)
    call()
    skip = -arrays[over[-1]].ctypes.data % 64 // 4
    whole = (len(arrays["c"]) - skip) // 8192 * 8192  # pieces of 32 KB
    assert set(arrays["c"][skip : skip + whole]) == {found}
    assert share == pytest.approx(len(arrays["c"]) / whole)


def test_a_ceiling_over_arrays_that_do_not_fit_it_is_refused():
    case = _memory_case("copy_nt", ("a", "b", "c"))
    with pytest.raises(ValueError, match="must name one array for read, two for copy"):
        ceilings.beside(case, case.inputs(None))


def test_every_case_names_arrays_for_its_ceiling():
    found = [case for case in TABLE if case.over]
    assert {case.family for case in found} >= {"activation", "reduce", "dropout", "elementwise"}
    number = {"read": 1, "copy": 2, "copy_nt": 2, "add_nt": 3}
    for case in found:
        assert len(case.over) == number[case.ceiling], case.key


def test_a_worker_times_the_ceiling_between_its_own_calls():
    worker = Worker("hotloop", 1)
    worker.load(_memory_case("copy", ("a", "c")), "", ceiling=True)
    times = worker.time(0.002)
    assert set(times) == {"", "ceiling"}
    assert min(times.values()) > 0
    worker.load(_memory_case("copy", ("a", "c")), "")
    assert set(worker.time(0.002)) == {""}


@pytest.mark.parametrize("contender", ["hotloop", "ceiling"])
def test_a_case_may_ask_for_its_own_number_of_threads(contender):
    before = hl.get_num_threads()
    alone = [case.key for case in TABLE if case.threads == 1]
    assert len(alone) == 4
    command = {"do": "load", "family": "gemm", "result": "", "ceiling": False}
    try:
        worker = Worker(contender, 2)
        for key, threads in ((alone[0], 1), ("gemm: 16x16x16 f32", 2)):
            worker.answer({**command, "key": key})
            assert hl.get_num_threads() == threads
    finally:
        hl.set_num_threads(before)


def test_the_ceilings_time_comes_from_our_process():
    class Ours(_Rival):
        def load(self, case, result, ceiling=False):
            assert ceiling

        def time(self, seconds):
            return {"": 2.0, "ceiling": 1.0}

    class Ceiling(_Rival):
        def load(self, case, result):
            raise AssertionError("loaded")

    case = _memory_case("copy", ("a", "c"))
    (row,) = benchmarks.run([case], {"hotloop": Ours(), "ceiling": Ceiling()}, rounds=1)
    assert row.times == {"hotloop": 2.0, "ceiling": 1.0}


def test_large_arrays_are_placed_apart():
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((600, 500), dtype=np.float32) for name in "abcd"}
    small, turned = np.arange(10.0), np.ones((600, 500)).T
    found = placed({**arrays, "list": [arrays["a"], small], "turned": turned, "other": "text"})
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable
        assert found[name].ctypes.data % 64 == 0
    assert len({found[name].ctypes.data % 4096 for name in arrays}) == 4
    np.testing.assert_array_equal(found["list"][0], arrays["a"])
    assert found["list"][1] is small
    assert found["turned"] is turned
    assert found["other"] == "text"


def test_a_row_without_a_quiet_timing_says_so():
    gauge = _Gauge(*[False] * 8)
    (row,) = benchmarks.run([TABLE[0]], {"hotloop": _Rival(*[2.0] * 4)}, rounds=1, gauge=gauge)
    assert row.disturbed == 1
    assert "†" in "".join(report.cells([row])[1])


def test_the_gauge_finds_the_machine_at_its_best_rate():
    gauge = benchmarks.Gauge(1, patience=0.0)
    gauge._best = 0.0
    assert gauge.full()
    gauge._best = 1e30
    assert not gauge.wait()


def test_geometric_means_stand_beside_what_was_promised():
    case = dataclasses.replace(TABLE[0], mean=("all", benchmarks.Target("torch", 2.0)))
    rows = [Row(case, times={"hotloop": 1.0, "torch": ratio}) for ratio in (1.0, 4.0)]
    assert summary.means(rows) == ["all (2 rows): 2.00× torch (promised 2.0×: met)"]
    for row in rows:
        row.times["ceiling"] = 0.5
    assert summary.means(rows) == [
        "all (2 rows): 2.00× torch (promised 2.0×: met; 4.00× at the ceiling)"
    ]


def test_the_spread_of_a_group_counts_its_plain_way():
    case = dataclasses.replace(TABLE[0], spread=("stored", 0.95))
    rows = [Row(case, times={"hotloop": 1.0, "plain": rate}) for rate in (0.96, 1.02)]
    assert summary.spreads(rows) == ["stored, worst rate over best: 0.941 (promised 0.95: MISSED)"]
    assert summary.spreads(rows[:1]) == ["stored, worst rate over best: 0.960 (promised 0.95: met)"]
    assert summary.spreads([Row(case, times={"hotloop": 1.0})]) == []
    named = {case.spread for case in TABLE if case.spread is not None}
    assert named == {("NN, NT, TN, TT at 1024³", 0.95)}


def test_readme_takes_the_short_table():
    text = "before <!-- speed: begin -->\nold\n<!-- speed: end --> after"
    expected = "before <!-- speed: begin -->\n| new |\n<!-- speed: end --> after"
    assert summary.readme(text, "| new |") == expected
    with pytest.raises(benchmarks.BenchError, match="must hold"):
        summary.readme("nothing", "| new |")
    known = {case.key for case in TABLE}
    assert set(summary.README_ROWS) <= known


def test_an_unknown_family_is_named(tmp_path):
    command = [sys.executable, "-m", "hotloop", "bench", "gemn", "--list"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert run.returncode == 2
    assert "unknown family 'gemn'" in run.stderr


def test_the_cases_can_be_listed(tmp_path):
    command = [sys.executable, "-m", "hotloop", "bench", "softmax", "--list"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert all(line.startswith("softmax: ") for line in run.stdout.splitlines())


def test_processes_are_timed_alone_and_together():
    found = benchmarks.processes.measure(1, quick=True)
    assert all(share > 0 for share in found.shares)
    assert found.import_hotloop > 0
    assert found.import_numpy > 0
    assert [line.partition(":")[0] for line in found.lines()] == [
        "two processes on the same cores, each multiplying 512x512x512 f32",
        "import",
        "call",
    ]


def test_no_case_at_all_is_an_error(tmp_path):
    command = [sys.executable, "-m", "hotloop", "bench", "softmax", "--match", "nothing"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert run.returncode == 2
    assert "'nothing'" in run.stderr
