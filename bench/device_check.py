"""Checks and times the CUDA kernels on the GPU of this machine, or says why it cannot.

    python bench/device_check.py --out bench/device/h200 --budget 540
    python bench/device_check.py --out DIR --budget 60 --only gemm,conv
    python bench/device_check.py --table           # bench/device/README.md from what lies there

In order: the machine and its ceilings; every family against float64, twice, for the same bits;
times of its kernels beside PyTorch (TF32 off and on) and JAX where they are installed; whole
training steps, eager and captured in a graph. Times are CUDA events around replays of graphs over
several sets of random arrays, more than L2 holds. Each family runs in a process of its own with a
time-out (what hangs or faults there ends there), and results.json is written anew after every case.

With HOTLOOP_CUDA=EMULATE everything runs on the CPU, tiny: that tests this script and measures
nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import platform
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CUDA = ROOT / "csrc" / "kernels" / "cuda"
TABLE = HERE / "device" / "README.md"
LABEL = "not verified on a device"
RESULTS = "results.json"
PIECES = ["ceilings", "gemm", "conv", "loss", "softmax", "norm", "reduce", "pool", "elementwise"]
PIECES += ["steps"]
L2_BYTES = 60 << 20  # of an H200
CASE_SECONDS = 40.0

Record = dict[str, Any]


# ---- sources ------------------------------------------------------------------------------------


def closure(source: Path) -> list[Path]:
    """A kernel's source and all that it includes of ours."""
    found, waiting = set(), [source]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        text = path.read_text(encoding="utf-8")
        waiting += [ROOT / "csrc" / name for name in re.findall(r'#\s*include\s*"([^"]+)"', text)]
    return sorted(path for path in found if "emulation" not in path.parts)


def source_hashes() -> dict[str, str]:
    """Of each family: what changes when its kernels may have changed."""
    hashes = {}
    for source in sorted(CUDA.glob("*.cu")):
        digest = hashlib.sha256()
        for path in closure(source):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
        hashes[source.stem] = digest.hexdigest()
    return hashes


# ---- in a worker --------------------------------------------------------------------------------


def say(record: Record) -> None:
    """One result, a line of JSON for the parent."""
    print(json.dumps(record), flush=True)


class Device:
    """Arrays, graphs and events on GPU 0."""

    def __init__(self) -> None:
        import hotloop as hl
        from hotloop import _core

        if not hl.cuda.is_available():
            raise RuntimeError(hl.cuda.unavailable_reason())
        self.emulated = bool(_core.cuda_is_emulated())
        self.core = _core
        self.library: Any = None
        with open("/proc/self/maps", encoding="utf-8") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
        for path in sorted(paths):
            if ".so" in path and "hotloop" in path and "_core" not in path:
                library = ctypes.CDLL(path)
                if hasattr(library, "hotloop_cuda_graph_begin"):
                    self.library = library
        if self.library is None:
            raise RuntimeError("the CUDA library has no hotloop_cuda_graph_begin: rebuild it")

    def put(self, array: np.ndarray) -> Any:
        return self.core.cuda_array(np.ascontiguousarray(array), 0)

    def capture(self, call: Any) -> ctypes.c_void_p:
        """What the call gives to the stream, as a graph. RuntimeError: it did what it must not."""
        made = ctypes.c_void_p()
        code = self.library.hotloop_cuda_graph_begin(0)
        if code:
            raise RuntimeError(f"capture: CUDA error {code}")
        try:
            kept = call()
        finally:
            code = self.library.hotloop_cuda_graph_end(0, ctypes.byref(made))
        del kept
        if code:
            raise RuntimeError(f"capture: CUDA error {code}; it allocates, waits or reads back")
        return made

    def milliseconds(self, graphs: list[ctypes.c_void_p], times: int) -> float:
        """Of one replay."""
        array = (ctypes.c_void_p * len(graphs))(*graphs)
        spent = ctypes.c_float()
        code = self.library.hotloop_cuda_graph_run(
            0, array, len(graphs), times, ctypes.byref(spent)
        )
        if code:
            raise RuntimeError(f"replay: CUDA error {code}")
        return spent.value / times

    def free(self, graphs: list[ctypes.c_void_p]) -> None:
        for graph in graphs:
            self.library.hotloop_cuda_graph_free(graph)


def summary(times: list[float]) -> Record:
    ordered = sorted(times)
    return {
        "ms": statistics.median(ordered),
        "p10": ordered[len(ordered) // 10],
        "p90": ordered[-1 - len(ordered) // 10],
    }


def parts(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def to_host(array: Any) -> np.ndarray:
    return array._to_host() if hasattr(array, "_to_host") else np.asarray(array)


def check(device: Device, case: Any) -> Record:
    """Against float64 on the CPU; twice, for the same bits."""
    arrays = case.arrays(7)
    wide = [a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays]
    want = parts(case.call(*wide))
    moved = [device.put(a) for a in arrays]
    got = [to_host(part) for part in parts(case.call(*moved))]
    again = [to_host(part) for part in parts(case.call(*moved))]
    errors = []
    for result, reference in zip(got, want, strict=True):
        difference = np.linalg.norm(np.ravel(result - reference))
        errors.append(float(difference / (np.linalg.norm(np.ravel(reference)) + 1e-30)))
    same = all(a.tobytes() == b.tobytes() for a, b in zip(got, again, strict=True))
    worst = max(errors)
    return {"error": worst, "same_bits": same, "passed": same and worst <= case.tolerance}


def time_ours(device: Device, case: Any, rounds: int) -> Record:
    one = sum(a.nbytes for a in case.arrays(1))
    sets = 2 if device.emulated else int(np.clip(3 * L2_BYTES // max(one, 1) + 1, 3, 16))
    inputs = [[device.put(a) for a in case.arrays(seed)] for seed in range(sets)]
    for arrays in inputs:
        case.call(*arrays)  # fills the cache of memory
    graphs = [device.capture(lambda arrays=arrays: case.call(*arrays)) for arrays in inputs]
    try:
        once = device.milliseconds(graphs, sets)
        times = sets if device.emulated else int(np.clip(20.0 / max(once, 1e-3), 20, 2000))
        found = summary([device.milliseconds(graphs, times) for _ in range(rounds)])
    finally:
        device.free(graphs)
    if case.flops:
        found["tflops"] = case.flops / found["ms"] * 1e-9
    if case.bytes:
        found["tb_per_s"] = case.bytes / found["ms"] * 1e-9
    return found


def torch_times(case: Any, tf32: bool, rounds: int) -> Record:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    one = sum(a.nbytes for a in case.arrays(1))
    sets = int(np.clip(3 * L2_BYTES // max(one, 1) + 1, 3, 16))
    inputs = [[torch.from_numpy(a).cuda() for a in case.arrays(s)] for s in range(sets)]
    graphs = []
    for arrays in inputs:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                case.torch(torch, *arrays)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            case.torch(torch, *arrays)
        graphs.append(graph)

    def replay(times: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for i in range(times):
            graphs[i % sets].replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / times

    times = int(np.clip(20.0 / max(replay(sets), 1e-3), 20, 2000))
    return summary([replay(times) for _ in range(rounds)])


def jax_times(case: Any, rounds: int) -> Record:
    """Without graphs: wall clock over calls that are all begun before one waits."""
    import jax
    import jax.numpy as jnp

    if jax.default_backend() != "gpu":
        raise RuntimeError("jax has no GPU")
    call = jax.jit(lambda *arrays: case.jax(jnp, *arrays))
    inputs = [[jax.device_put(a) for a in case.arrays(s)] for s in range(3)]
    spent = []
    call(*inputs[0]).block_until_ready()
    for _ in range(rounds):
        begin = time.perf_counter()
        last = [call(*inputs[i % 3]) for i in range(21)][-1]
        last.block_until_ready()
        spent.append((time.perf_counter() - begin) / 21 * 1e3)
    return summary(spent)


def rivals(case: Any, rounds: int) -> Iterator[tuple[str, Record]]:
    contenders: list[tuple[str, Any]] = []
    if case.torch:
        contenders += [("torch", lambda: torch_times(case, False, rounds)),
                       ("torch TF32", lambda: torch_times(case, True, rounds))]  # fmt: skip
    if case.jax:
        contenders.append(("jax", lambda: jax_times(case, rounds)))
    for name, run in contenders:
        try:
            yield name, run()
        except Exception as error:  # not installed, no GPU for it, out of memory: said, not fatal
            yield name, {"missing": f"{type(error).__name__}: {error}"[:200]}


def run_family(family: str) -> None:
    import device_cases

    device = Device()
    for case in device_cases.correctness().get(family, []):
        record: Record = {"kind": "correctness", "family": family, "name": case.name}
        try:
            record |= check(device, case)
        except Exception as error:
            record |= {"passed": False, "failure": f"{type(error).__name__}: {error}"[:400]}
        say(record)
    cases = device_cases.correctness() if device.emulated else device_cases.timed()
    for case in cases.get(family, []):
        record = {"kind": "time", "family": family, "name": case.name}
        rounds = 3 if device.emulated else 9
        try:
            record |= time_ours(device, case, rounds)
            if not device.emulated:
                record["rivals"] = dict(rivals(case, rounds))
        except Exception as error:
            record["failure"] = f"{type(error).__name__}: {error}"[:400]
        say(record)


def run_ceilings() -> None:
    """A copy by our own kernel; what the library reaches in float32, TF32 and bfloat16."""
    import device_cases
    import hotloop as hl

    device = Device()
    count = 1 << 10 if device.emulated else 1 << 28
    case = device_cases.Case("relu as a copy", hl.kernels.relu, [(count,)], bytes=8.0 * count)
    say({"kind": "ceiling", "name": "copy", **time_ours(device, case, 5)})
    if device.emulated:
        return
    try:
        import torch

        for name, dtype, tf32 in (
            ("torch float32 8192^3", torch.float32, False),
            ("torch TF32 8192^3", torch.float32, True),
            ("torch bfloat16 8192^3", torch.bfloat16, False),
        ):
            product = device_cases.Case(name, None, [(8192, 8192)] * 2)  # type: ignore[arg-type]
            product.torch = lambda torch, a, b, dtype=dtype: a.to(dtype) @ b.to(dtype)
            found = torch_times(product, tf32, 5)
            say({"kind": "ceiling", "name": name, **found, "tflops": 1.0995 / found["ms"] * 1e3})
    except Exception as error:
        say({"kind": "ceiling", "name": "torch", "missing": f"{error}"[:200]})


def our_step(device: Device, model: Any, shape: tuple[int, ...], classes: int) -> Any:
    import hotloop as hl

    rng = np.random.default_rng(3)
    x = hl.tensor(rng.standard_normal(shape, np.float32)).to("cuda")
    labels = hl.tensor(rng.integers(0, classes, shape[0])).to("cuda")
    model = model.to("cuda")
    optimizer = hl.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss_of = hl.nn.CrossEntropyLoss()

    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(x), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def torch_step(model: Any, shape: tuple[int, ...], classes: int) -> Record:
    import torch

    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.standard_normal(shape, np.float32)).cuda()
    labels = torch.from_numpy(rng.integers(0, classes, shape[0])).cuda()
    model = model.cuda()
    if len(shape) == 4:
        x, model = (t.to(memory_format=torch.channels_last) for t in (x, model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, foreach=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(5):
            step()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(200):
        step()
    torch.cuda.synchronize()
    eager = (time.perf_counter() - begin) / 200 * 1e3
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    begin = time.perf_counter()
    for _ in range(500):
        graph.replay()
    torch.cuda.synchronize()
    return {"eager_ms": eager, "graph_ms": (time.perf_counter() - begin) / 500 * 1e3}


def run_steps() -> None:
    import device_cases
    import hotloop as hl

    device = Device()
    repeats = 3 if device.emulated else 200
    for name, (make, shape, classes) in device_cases.networks(device.emulated).items():
        record: Record = {"kind": "step", "name": name, "batch": shape[0]}
        try:
            hl.manual_seed(1) if hasattr(hl, "manual_seed") else hl.seed(1)
            step = our_step(device, make(hl.nn), shape, classes)
            record["first_loss"] = float(step().item())
            for _ in range(3):
                last = step()
            record["loss"] = float(last.item())
            begin = time.perf_counter()
            for _ in range(repeats):
                step()
            hl.cuda.synchronize()
            record["eager_ms"] = (time.perf_counter() - begin) / repeats * 1e3
            graph = device.capture(step)
            record["graph_ms"] = device.milliseconds([graph], repeats)
            device.free([graph])
        except Exception as error:
            record["failure"] = f"{type(error).__name__}: {error}"[:400]
        if not device.emulated:
            try:
                import torch

                record["torch"] = torch_step(make(torch.nn), shape, classes)
            except Exception as error:
                record["torch"] = {"missing": f"{type(error).__name__}: {error}"[:200]}
        say(record)


def worker(piece: str) -> None:
    sys.path.insert(0, str(HERE))
    if library := os.environ.get("HOTLOOP_CHECK_LIBRARY"):
        from hotloop import _core

        _core.cuda_use_library(library)
    if piece == "ceilings":
        run_ceilings()
    elif piece == "steps":
        run_steps()
    else:
        run_family(piece)


# ---- the parent ---------------------------------------------------------------------------------


def environment() -> Record:
    import hotloop as hl

    found: Record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "hotloop": hl.__version__,
        "built": hl.cuda.built_with(),
        "reason": hl.cuda.unavailable_reason(),
    }
    query = "name,driver_version,clocks.sm,clocks.max.sm,power.draw,memory.total"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        found["gpu"] = done.stdout.strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        found["gpu"] = f"nvidia-smi: {type(error).__name__}"
    return found


def lines_of(process: subprocess.Popen[str]) -> queue.Queue[str | None]:
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def run_piece(piece: str, seconds: float) -> Iterator[Record]:
    """The worker's results as they come; ended where a case takes too long."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--worker", piece],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = lines_of(process)
    deadline = time.monotonic() + seconds
    try:
        while True:
            left = min(CASE_SECONDS, deadline - time.monotonic())
            try:
                line = lines.get(timeout=max(left, 0.01))
            except queue.Empty:
                yield {"kind": "end", "piece": piece, "failure": f"no result within {left:.0f} s"}
                return
            if line is None:
                break
            yield json.loads(line)
        code = process.wait(10)
        if code:
            assert process.stderr
            yield {"kind": "end", "piece": piece, "failure": process.stderr.read()[-600:]}
    finally:
        process.kill()
        process.wait()


def write(path: Path, results: Record) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def run_all(out: Path, budget: float, only: list[str]) -> Record:
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    results: Record = {"environment": environment(), "sources": source_hashes(), "cases": []}
    emulated = os.environ.get("HOTLOOP_CUDA") == "EMULATE"
    results["emulated"] = emulated or bool(os.environ.get("HOTLOOP_CHECK_LIBRARY"))
    path = out / RESULTS
    for piece in [piece for piece in PIECES if not only or piece in only]:
        left = budget - (time.monotonic() - begin)
        if left <= 1:
            results["cases"].append({"kind": "end", "piece": piece, "failure": "out of time"})
            continue
        for record in run_piece(piece, left):
            record["at"] = round(time.monotonic() - begin, 1)
            results["cases"].append(record)
            write(path, results)
            print(line_of(record), flush=True)
    write(path, results)
    return results


def line_of(record: Record) -> str:
    """What a result says, for people."""
    words = [record["kind"], record.get("family", ""), record.get("name", record.get("piece", ""))]
    for name in ("error", "ms", "tflops", "tb_per_s", "eager_ms", "graph_ms"):
        if name in record:
            words.append(f"{name} {record[name]:.3g}")
    if "passed" in record:
        words.append("passed" if record["passed"] else "FAILED")
    if "failure" in record:
        words.append(f"FAILED: {record['failure'].strip().splitlines()[-1:]}")
    return " ".join(str(word) for word in words if word)


# ---- the table ----------------------------------------------------------------------------------


def markdown(folder: Path) -> str:
    """bench/device/README.md: the committed results, and what no device has verified."""
    hashes = source_hashes()
    verified: dict[str, str] = {}
    sections = []
    for path in sorted(folder.glob(f"*/{RESULTS}")):
        results = json.loads(path.read_text(encoding="utf-8"))
        if results.get("emulated"):
            continue
        cases = results["cases"]
        for family, digest in hashes.items():
            tried = [c for c in cases if c.get("family") == family and c["kind"] == "correctness"]
            if (
                digest == results["sources"].get(family)
                and tried
                and all(c["passed"] for c in tried)
            ):
                verified[family] = path.parent.name
        rows = ["| case | ms | TFLOP/s | TB/s | torch | torch TF32 | jax |",
                "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
        for case in cases:
            if case["kind"] != "time" or "ms" not in case:
                continue
            others = [case.get("rivals", {}).get(n, {}) for n in ("torch", "torch TF32", "jax")]
            ratios = [f"{o['ms'] / case['ms']:.2f}×" if "ms" in o else "" for o in others]
            rates = [f"{case[n]:.3g}" if n in case else "" for n in ("tflops", "tb_per_s")]
            cells = [case["name"], f"{case['ms']:.4g}", *rates, *ratios]
            rows.append("| " + " | ".join(cells) + " |")
        about = results["environment"]
        sections.append(f"## {path.parent.name}\n\n{about['gpu']}; {about['date']}.\n\n"
                        + "\n".join(rows) + "\n")  # fmt: skip
    lines = [
        "# On a GPU",
        "",
        "Generated by `python bench/device_check.py --table` from the results that lie beside it; "
        "do not edit by hand.",
        "",
        *(f"- {family}: verified on {where}" for family, where in verified.items()),
        f"- {'the other' if verified else 'all'} kernels: {LABEL}",
        "",
    ]
    return "\n".join([*lines, *sections])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for results.json")
    parser.add_argument("--budget", type=float, default=540, help="seconds in all")
    parser.add_argument("--only", default="", help=f"some of {','.join(PIECES)}")
    parser.add_argument("--table", action="store_true", help="write bench/device/README.md anew")
    parser.add_argument("--worker", choices=PIECES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return 0
    if options.table:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(markdown(TABLE.parent), encoding="utf-8")
        return 0
    if not options.out:
        parser.error("--out must be given")
    only = [piece for piece in options.only.split(",") if piece]
    if unknown := [piece for piece in only if piece not in PIECES]:
        parser.error(f"--only knows {','.join(PIECES)}, got {','.join(unknown)}")
    results = run_all(options.out, options.budget, only)
    bad = [c for c in results["cases"] if "failure" in c or c.get("passed") is False]
    print(f"{len(results['cases'])} results in {options.out / RESULTS}, {len(bad)} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
