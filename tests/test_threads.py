"""The pool: how many threads and why; concurrent callers, fork, Ctrl-C, exit. Nothing is timed.

What could hang or end a process runs in a process of its own, with a generous deadline.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import hotloop as hl
from hotloop import _core
from hotloop.kernels import normal, uniform
from reference import assert_same_bits

DEADLINE = 240.0
UNSET = ("HOTLOOP_NUM_THREADS", "OMP_NUM_THREADS", "HOTLOOP_ISA")


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if k not in UNSET}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    try:
        out, err = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the process hangs; it wrote {out!r} and {err!r}")
    assert process.returncode == code, f"exit {process.returncode}: {out!r} {err!r}"
    return out


def run(code: str, exit_code: int = 0, **environment: str) -> str:
    return finish(start(code, **environment), exit_code)


# ---- how many ---------------------------------------------------------------------------------

COUNT = "import hotloop as hl; print(hl.get_num_threads(), hl._core.num_threads_reason())"


def test_no_thread_before_the_first_use():
    out = run(
        """
        import hotloop as hl
        import numpy as np
        hl.set_num_threads(3)
        print(hl._core.workers_alive())
        hl.kernels.uniform(10)         # small work stays on the caller
        print(hl._core.workers_alive())
        hl.kernels.uniform(1_000_000)
        print(hl._core.workers_alive())
        """
    )
    assert out.split() == ["0", "0", "2"]


def test_the_number_is_obeyed_beyond_the_cores():
    out = run(
        """
        import hotloop as hl
        hl.set_num_threads(11)
        hl._core.sleep_launch(200, 1000, True)
        print(hl._core.workers_alive(), hl._core.units_slept(), hl.get_num_threads())
        """
    )
    assert out.split() == ["10", "200", "11"]


def test_default_is_the_affinity():
    cpus = len(os.sched_getaffinity(0))
    quota = _core.cgroup_cpus("")
    expected = min(cpus, int(np.ceil(quota))) if quota else cpus
    assert run(COUNT).split(maxsplit=1)[0] == str(expected)


def test_affinity_of_one_cpu():
    one = min(os.sched_getaffinity(0))
    out = run(f"import os; os.sched_setaffinity(0, {{{one}}}); {COUNT}")
    assert out.startswith("1 ")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HOTLOOP_NUM_THREADS": "1"}, "1 1: HOTLOOP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "1"}, "1 1: OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "1,2"}, "1 1: OMP_NUM_THREADS"),
        ({"HOTLOOP_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}, "1 1: HOTLOOP_NUM_THREADS"),
    ],
)
def test_environment_lowers_the_number(environment, reason):
    if hl.show_config().threads == 1 and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one CPU: nothing to lower")
    assert run(COUNT, **environment).strip() == reason


def test_environment_does_not_raise_the_number():
    assert run(COUNT, HOTLOOP_NUM_THREADS="1000") == run(COUNT)
    assert run(COUNT, OMP_NUM_THREADS="nonsense") == run(COUNT)
    assert run(COUNT, HOTLOOP_NUM_THREADS="") == run(COUNT)


def test_environment_that_is_no_number():
    code = """
    import hotloop as hl
    for call in (hl.get_num_threads, lambda: hl.kernels.uniform(1_000_000)):
        try: call()
        except ValueError as error: print(error)
    """
    lines = run(code, HOTLOOP_NUM_THREADS="many").splitlines()
    assert len(lines) == 2
    assert "HOTLOOP_NUM_THREADS: must be a whole number of at least 1, got 'many'" in lines[0]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("number", [0, -1, 1025])
def test_a_number_out_of_range(number):
    before = hl.get_num_threads()
    with pytest.raises(ValueError, match=f"set_num_threads: .* got {number}"):
        hl.set_num_threads(number)
    with pytest.raises(TypeError):
        hl.set_num_threads("2")
    assert hl.get_num_threads() == before


def test_reason_after_set_num_threads():
    before = hl.get_num_threads()
    hl.set_num_threads(5)
    assert hl.show_config().threads_reason == "5: set_num_threads"
    hl.set_num_threads(before)


def cgroup(root, groups, **files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for path, text in files.items():
        file = root / "sys/fs/cgroup" / path.replace("__", "/").replace("CPUMAX", "cpu.max")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return _core.cgroup_cpus(str(root))


def test_cgroup_v2(tmp_path):
    assert cgroup(tmp_path / "a", "0::/\n", CPUMAX="150000 100000\n") == 1.5
    assert cgroup(tmp_path / "b", "0::/x/y\n", x__y__CPUMAX="max 100000\n") == 0
    deep = cgroup(
        tmp_path / "c", "0::/x/y\n", x__y__CPUMAX="400000 100000\n", x__CPUMAX="200000 100000\n"
    )
    assert deep == 2.0  # the group above allows less
    assert cgroup(tmp_path / "d", "0::/of/the/host\n", CPUMAX="100000 100000\n") == 1.0
    assert cgroup(tmp_path / "e", "0::/\n", CPUMAX="nonsense\n") == 0
    assert _core.cgroup_cpus(str(tmp_path / "missing")) == 0


def test_cgroup_v1(tmp_path):
    for number, folder in enumerate(("cpu,cpuacct", "cpu")):
        root = tmp_path / str(number)
        group = root / "sys/fs/cgroup" / folder / "box"
        group.mkdir(parents=True)
        (group / "cpu.cfs_quota_us").write_text("250000\n")
        (group / "cpu.cfs_period_us").write_text("100000\n")
        text = "5:memory:/box\n4:cpu,cpuacct:/box\n0::/\n"
        assert cgroup(root, text) == 2.5
        (group / "cpu.cfs_quota_us").write_text("-1\n")
        assert _core.cgroup_cpus(str(root)) == 0


# ---- at once ----------------------------------------------------------------------------------


def test_same_bits(dtype):
    assert_same_bits(lambda: uniform(50_001, dtype=dtype, key=(1, 2)), threads=(1, 2, 3, 8, 17))


def test_eight_threads_call_at_once():
    want = [normal(60_000 + i, key=(i, 0)).tobytes() for i in range(8)]
    wrong: list[int] = []

    def call(i):
        for _ in range(25):
            if normal(60_000 + i, key=(i, 0)).tobytes() != want[i]:
                wrong.append(i)

    before = hl.get_num_threads()
    hl.set_num_threads(3)
    callers = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(DEADLINE)
    hl.set_num_threads(before)
    assert not any(caller.is_alive() for caller in callers)
    assert wrong == []


def test_number_changes_between_calls():
    want = normal(200_000, key=(1, 1)).tobytes()
    before = hl.get_num_threads()
    for threads in (1, 8, 2, 5, 1, 3, 8):
        hl.set_num_threads(threads)
        assert normal(200_000, key=(1, 1)).tobytes() == want
    hl.set_num_threads(before)


def test_the_gil_is_free_during_a_launch():
    """Another Python thread ends the wait of this one: it could not with the GIL held."""
    seen = threading.Event()
    other = threading.Thread(target=seen.set)

    def long_call():
        _core.sleep_launch(100, 5000, True)
        finished.append(seen.is_set())

    finished: list[bool] = []
    caller = threading.Thread(target=long_call)
    caller.start()
    other.start()
    assert seen.wait(DEADLINE)
    caller.join(DEADLINE)
    assert finished == [True]


def test_two_processes_on_the_same_cores():
    code = """
    import hotloop as hl
    hl.set_num_threads(8)
    first = hl.kernels.normal(200_000, key=(1, 2)).tobytes()
    for _ in range(100):
        assert hl.kernels.normal(200_000, key=(1, 2)).tobytes() == first
    """
    for process in [start(code) for _ in range(2)]:
        finish(process)


# ---- fork -------------------------------------------------------------------------------------


def test_a_thousand_forked_children():
    out = run(
        """
        import os
        import hotloop as hl
        hl.set_num_threads(3)
        want = hl.kernels.uniform(40_000, key=(1, 2)).tobytes()
        bad = 0
        for _ in range(1000):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    good = hl._core.workers_alive() == 0
                    good = good and hl.kernels.uniform(40_000, key=(1, 2)).tobytes() == want
                    code = 0 if good and hl._core.workers_alive() == 2 else 2
                finally:
                    os._exit(code)
            bad += os.waitpid(child, 0)[1] != 0
        assert hl.kernels.uniform(40_000, key=(1, 2)).tobytes() == want
        print(bad, hl._core.workers_alive())
        """
    )
    assert out.split() == ["0", "2"]


def test_fork_while_another_thread_is_inside_a_kernel():
    out = run(
        """
        import os, threading
        import hotloop as hl
        hl.set_num_threads(3)
        want = hl.kernels.uniform(40_000, key=(1, 2)).tobytes()
        over = threading.Event()
        def busy():
            while not over.is_set():
                hl.kernels.uniform(300_000, key=(3, 4))
        thread = threading.Thread(target=busy)
        thread.start()
        bad = 0
        for _ in range(50):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = hl.kernels.uniform(40_000, key=(1, 2)).tobytes() != want
                finally:
                    os._exit(code)
            bad += os.waitpid(child, 0)[1] != 0
        over.set()
        thread.join()
        print(bad)
        """
    )
    assert out.split() == ["0"]


def test_grandchildren():
    out = run(
        """
        import os
        import hotloop as hl
        hl.set_num_threads(2)
        want = hl.kernels.uniform(40_000, key=(1, 2)).tobytes()
        depth = 0
        while depth < 5:
            child = os.fork()
            if child:
                os._exit(os.waitpid(child, 0)[1] != 0)
            depth += 1
            assert hl.kernels.uniform(40_000, key=(1, 2)).tobytes() == want
        os._exit(0)
        """
    )
    assert out == ""


# ---- Ctrl-C and the end of the program --------------------------------------------------------

# SIGINT may be ignored where the tests were started, so the child installs Python's handler.
INTERRUPT = """
import os, signal, threading
import hotloop as hl
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
hl.set_num_threads(2)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_ctrl_c_ends_a_long_call(threads):
    """The call would sleep for hours."""
    out = run(
        INTERRUPT
        + f"""
hl.set_num_threads({threads})
try:
    hl._core.sleep_launch(2_000_000_000, 10, True)
    print("finished")
except KeyboardInterrupt:
    print("interrupted")
print(hl.kernels.uniform(1_000_000, key=(1, 2)).shape)
"""
    )
    assert out.splitlines() == ["interrupted", "(1000000,)"]


def test_ctrl_c_lets_an_in_place_call_finish():
    out = run(
        INTERRUPT
        + """
try:
    hl._core.sleep_launch(1000, 2000, False)
    while True: pass
except KeyboardInterrupt:
    print("interrupted", hl._core.units_slept())
"""
    )
    assert out.split() == ["interrupted", "1000"]


def test_an_exception_of_a_signal_handler_comes_out():
    out = run(
        """
        import os, signal, threading
        import hotloop as hl
        def handler(number, frame):
            raise ValueError("from the handler")
        signal.signal(signal.SIGUSR1, handler)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        try:
            hl._core.sleep_launch(2_000_000_000, 10, True)
        except ValueError as error:
            print(error)
        """
    )
    assert out.strip() == "from the handler"


def test_a_handler_that_returns_lets_the_call_go_on():
    out = run(
        """
        import os, signal, threading
        import hotloop as hl
        seen = []
        signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        hl._core.sleep_launch(1000, 1000, True)
        while not seen: pass
        print(hl._core.units_slept(), len(seen))
        """
    )
    assert out.split() == ["1000", "1"]


def test_exit_while_a_daemon_thread_is_inside_a_kernel():
    run(
        """
        import sys, threading
        import hotloop as hl
        hl.set_num_threads(3)
        threading.Thread(
            target=hl._core.sleep_launch, args=(2_000_000_000, 10, True), daemon=True
        ).start()
        while hl._core.units_slept() < 5: pass
        sys.exit(7)
        """,
        exit_code=7,
    )


def test_exit_while_daemon_threads_come_and_go():
    """Some thread asks for the GIL while the interpreter is torn down, and must not abort it."""
    code = """
    import threading
    import hotloop as hl
    hl.set_num_threads(2)
    def busy():
        while True:
            hl.kernels.uniform(40_000)
    for _ in range(4):
        threading.Thread(target=busy, daemon=True).start()
    while hl._core.arena_stats()["allocations"] < 50: pass
    """
    for _ in range(5):
        run(code)


def test_signals_are_left_to_the_threads_of_the_program():
    """The workers block every signal, so that a handler runs where the program expects it."""
    before = hl.get_num_threads()
    hl.set_num_threads(2)
    uniform(1_000_000)
    hl.set_num_threads(before)
    blocked = 0
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        blocked += bool(int(lines["SigBlk"], 16) >> (signal.SIGINT - 1) & 1)
    assert blocked >= _core.workers_alive() >= 1


PLACES = """
import os, sys
import numpy as np
import hotloop as hl

cpus = sorted(os.sched_getaffinity(0))
if len(cpus) < 2:
    sys.exit()
a = np.ones((256, 256), np.float32)
before = set(os.listdir("/proc/self/task"))
hl.set_num_threads(2)
hl.kernels.gemm(a, a)
(worker,) = set(os.listdir("/proc/self/task")) - before

def cpu():
    with open(f"/proc/self/task/{worker}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[36])

os.sched_setaffinity(0, {cpus[0]})  # of the caller alone
for _ in range(10000):
    hl.kernels.gemm(a, a)
    if cpu() != cpus[0]:
        break
assert cpu() != cpus[0], "the worker stays beside the caller"
os.sched_setaffinity(int(worker), {cpus[0]})
for _ in range(100):
    hl.kernels.gemm(a, a)
assert os.sched_getaffinity(int(worker)) == {cpus[0]}, "the user's choice is undone"
"""


def test_a_worker_leaves_the_callers_cpu_unless_told_otherwise():
    run = subprocess.run(
        [sys.executable, "-c", PLACES], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
