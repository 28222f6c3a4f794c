"""Checks and times the CUDA kernels on the GPU of this machine, or says why it cannot.

    python bench/device_check.py --out bench/device/h200 --budget 540
    python bench/device_check.py --out DIR --budget 60 --only gemm,conv
    python bench/device_check.py --dry --out DIR   # the rivals' code too, tiny, on the CPU
    python bench/device_check.py --table           # bench/device/README.md from what lies there

In order: the machine and its ceilings; every family against float64, twice, for the same bits;
times of products and convolutions beside PyTorch (TF32 off and on), Triton and JAX where they are
installed; whole training steps, eager and captured in a graph; times of the other families;
compute-sanitizer, where it works. Times are CUDA events around replays of graphs over several sets
of random arrays, more than L2 holds. Each family runs in a process of its own with time-outs: a
case that hangs or faults is told, and a new process goes on behind it. results.json is written
anew after every case; what it held of other pieces, from the same sources, is kept, so that a run
may be continued with --only.

With HOTLOOP_CUDA=EMULATE (or --dry, which asks for it) everything runs on the CPU, tiny: that tests
this script and measures nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from device_rivals import rivals, sets_of, summary, torch_step, torch_times  # noqa: E402

ROOT = HERE.parent
CUDA = ROOT / "csrc" / "kernels" / "cuda"
TABLE = HERE / "device" / "README.md"
LABEL = "not verified on a device"
RESULTS = "results.json"
FAMILIES = ["gemm", "conv", "activation", "elementwise", "softmax", "loss", "norm_rows", "norm"]
FAMILIES += ["optimizer", "reduce", "reduce_along", "pool", "embedding", "dropout", "random"]
FAMILIES += ["device_copy"]
PIECES = ["ceilings", *FAMILIES, "steps", "sanitizer"]
# What counts most first: is it right; then the figures that were promised; then all others.
PLAN = ["ceilings", *(f"{family}:check" for family in FAMILIES), "gemm:time", "conv:time", "steps"]
PLAN += [*(f"{family}:time" for family in FAMILIES[2:]), "sanitizer"]
CASE_SECONDS = 40.0
FIRST_SECONDS = 90.0  # of a process: imports, contexts, the rivals' compilers
MOST_STARTS = 4  # of a process that hangs: what comes behind the case is still tried
RIVALS = ("torch", "torch TF32", "triton", "jax")
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")  # of compute-sanitizer

BUILD = "install it (pip install .), or build in place as CONTRIBUTING.md says (Measure on a GPU)"

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

    def put(self, array: np.ndarray) -> Any:
        return self.core.cuda_array(np.ascontiguousarray(array), 0)

    def capture(self, call: Any) -> Any:
        """What the call gives to the stream, as a graph; DeviceError: it does what it must not."""
        graph = self.core.CudaGraph(0)
        graph.begin()
        try:
            kept = call()
        finally:
            graph.end()
        del kept
        return graph

    def milliseconds(self, graphs: list[Any], times: int) -> float:
        """Of one replay."""
        return float(self.core.CudaGraph.milliseconds(graphs, times)) / times


def dry() -> bool:
    """Whether the rivals run on the CPU, to try their code."""
    return bool(os.environ.get("HOTLOOP_CHECK_DRY"))


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
        difference = np.linalg.norm(np.ravel(np.subtract(result, reference, dtype=np.float64)))
        errors.append(float(difference / (np.linalg.norm(np.ravel(reference)) + 1e-30)))
    same = all(a.tobytes() == b.tobytes() for a, b in zip(got, again, strict=True))
    worst = max(errors)
    return {"error": worst, "same_bits": same, "passed": same and worst <= case.tolerance}


def time_ours(device: Device, case: Any, rounds: int) -> Record:
    sets = sets_of(case, device.emulated)
    inputs = [[device.put(a) for a in case.arrays(seed)] for seed in range(sets)]
    for arrays in inputs:
        case.call(*arrays)  # fills the cache of memory
    graphs = [device.capture(lambda arrays=arrays: case.call(*arrays)) for arrays in inputs]
    once = device.milliseconds(graphs, sets)
    times = sets if device.emulated else int(np.clip(20.0 / max(once, 1e-3), 20, 2000))
    found = summary([device.milliseconds(graphs, times) for _ in range(rounds)])
    if case.flops:
        found["tflops"] = case.flops / found["ms"] * 1e-9
    if case.bytes:
        found["tb_per_s"] = case.bytes / found["ms"] * 1e-9
    return found


def run_checks(family: str, skip: int) -> None:
    import device_cases

    device = Device()
    for case in device_cases.correctness().get(family, [])[skip:]:
        record: Record = {"kind": "correctness", "family": family, "name": case.name}
        try:
            record |= check(device, case)
        except Exception as error:
            record |= {"passed": False, "failure": f"{type(error).__name__}: {error}"[:400]}
        say(record)


def run_times(family: str, skip: int) -> None:
    import device_cases

    device = Device()
    cases = device_cases.correctness() if device.emulated else device_cases.timed()
    for case in cases.get(family, [])[skip:]:
        record = {"kind": "time", "family": family, "name": case.name}
        rounds = 3 if device.emulated else 9
        try:
            record |= time_ours(device, case, rounds)
            if dry() or not device.emulated:
                record["rivals"] = dict(rivals(case, rounds, dry()))
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
    if device.emulated and not dry():
        return
    side = 16 if dry() else 8192
    try:
        import torch

        for name, dtype, tf32 in (
            ("torch float32 8192^3", torch.float32, False),
            ("torch TF32 8192^3", torch.float32, True),
            ("torch bfloat16 8192^3", torch.bfloat16, False),
        ):
            product = device_cases.Case(name, None, [(side, side)] * 2)  # type: ignore[arg-type]
            product.torch = lambda torch, a, b, dtype=dtype: a.to(dtype) @ b.to(dtype)
            found = torch_times(product, tf32, 5, dry())
            found["tflops"] = 2e-9 * side**3 / found["ms"]
            say({"kind": "ceiling", "name": name, **found})
    except Exception as error:
        say({"kind": "ceiling", "name": "torch", "missing": f"{error}"[:200]})


class OurStep:
    """A whole training step that stays on the device, the learning rate included."""

    def __init__(self, model: Any, shape: tuple[int, ...], classes: int, optimizer: str) -> None:
        import hotloop as hl

        rng = np.random.default_rng(3)
        self.x = hl.tensor(rng.standard_normal(shape, np.float32)).to("cuda")
        self.labels = hl.tensor(rng.integers(0, classes, shape[0])).to("cuda")
        self.model = model.to("cuda")
        self.loss_of = hl.nn.CrossEntropyLoss()
        params = list(self.model.parameters())
        if optimizer == "SGD":
            lr = hl.tensor(np.float32(0.01)).to("cuda")
            self.optimizer: Any = hl.optim.SGD(params, lr=lr, momentum=0.9)
        else:
            lr = hl.tensor(np.float32(0.001)).to("cuda")
            self.optimizer = hl.optim.AdamW(params, lr=lr, capturable=True)

    def __call__(self) -> Any:
        self.optimizer.zero_grad()
        loss = self.loss_of(self.model(self.x), self.labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def crossings() -> int:
    """What has crossed the bus, waited, or been asked of the driver, in all."""
    from hotloop import _core

    info = _core.cuda_info(0)
    names = ("copies_to_device", "copies_to_host", "copies_between", "synchronizations")
    return sum(info[name] for name in names) + info["allocations"] - info["cache_hits"]


def run_steps() -> None:
    import device_cases
    import hotloop as hl

    device = Device()
    repeats = 3 if device.emulated else 200
    for name, (make, shape, classes) in device_cases.networks(device.emulated).items():
        for optimizer in ("SGD", "AdamW"):
            record: Record = {"kind": "step", "name": f"{name}, {optimizer}", "batch": shape[0]}
            try:
                hl.seed(1)
                step = OurStep(make(hl.nn), shape, classes, optimizer)
                record["first_loss"] = float(step().item())
                for _ in range(3):
                    last = step()
                record["loss"] = float(last.item())
                before = crossings()
                step()
                record["crossings"] = crossings() - before
                begin = time.perf_counter()
                for _ in range(repeats):
                    step()
                hl.cuda.synchronize()
                record["eager_ms"] = (time.perf_counter() - begin) / repeats * 1e3
                kept: list[Any] = []
                graph = device.capture(lambda step=step, kept=kept: kept.append(step()))
                record["graph_ms"] = device.milliseconds([graph], repeats)
                record["last_loss"] = float(kept[0].item())
                del graph
                if record["crossings"]:
                    record["failure"] = f"{record['crossings']} crossings in a step, 0 expected"
                elif not record["last_loss"] < record["first_loss"]:
                    record["failure"] = "the loss does not fall"
            except Exception as error:
                record["failure"] = f"{type(error).__name__}: {error}"[:400]
            if dry() or not device.emulated:
                try:
                    import torch

                    model = make(torch.nn)
                    record["torch"] = torch_step(model, shape, classes, optimizer, dry())
                except Exception as error:
                    record["torch"] = {"missing": f"{type(error).__name__}: {error}"[:200]}
            say(record)


def run_tiny() -> None:
    """Every small case once, for compute-sanitizer to look at."""
    import device_cases

    device = Device()
    for cases in device_cases.correctness().values():
        for case in cases:
            for part in parts(case.call(*[device.put(a) for a in case.arrays(7)])):
                to_host(part)


def worker(piece: str, skip: int) -> None:
    if library := os.environ.get("HOTLOOP_CHECK_LIBRARY"):
        from hotloop import _core

        _core.cuda_use_library(library)
    if piece == "ceilings":
        run_ceilings()
    elif piece == "steps":
        run_steps()
    elif piece == "tiny":
        run_tiny()
    else:
        family, _, what = piece.partition(":")
        (run_checks if what == "check" else run_times)(family, skip)


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


def lines_of(process: subprocess.Popen[str]) -> tuple[queue.Queue[str | None], threading.Thread]:
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout
        with process.stdout as stdout:
            for line in stdout:
                lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return lines, reader


def run_piece(piece: str, seconds: float) -> Iterator[Record]:
    """The results of its cases as they come. A case that takes too long or brings its process down
    is told, and the cases behind it are tried in another one."""
    deadline = time.monotonic() + seconds
    done = 0
    for _ in range(MOST_STARTS):
        ended = True
        for record in run_process(piece, done, deadline):
            ended = record["kind"] != "end"
            done += 1
            yield record
        if ended or ":" not in piece or deadline - time.monotonic() < 1:
            return
    yield {"kind": "end", "piece": piece, "failure": f"given up after {MOST_STARTS} processes"}


def run_process(piece: str, skip: int, deadline: float) -> Iterator[Record]:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:  # not a pipe:
        process = subprocess.Popen(  # nobody reads it meanwhile, and it would fill
            [sys.executable, __file__, "--worker", piece, "--skip", str(skip)],
            stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        lines, reader = lines_of(process)
        allowed = FIRST_SECONDS
        try:
            while True:
                left = min(allowed, deadline - time.monotonic())
                allowed = CASE_SECONDS
                try:
                    line = lines.get(timeout=max(left, 0.01))
                except queue.Empty:
                    failure = f"no result within {left:.0f} s"
                    yield {"kind": "end", "piece": piece, "failure": failure}
                    return
                if line is None:
                    break
                if line.startswith("{"):  # others are what a library has to say
                    yield json.loads(line)
            if code := process.wait(10):
                errors.seek(0)
                failure = errors.read()[-600:] or f"exit {code}"
                yield {"kind": "end", "piece": piece, "failure": failure}
        finally:
            process.kill()
            process.wait()
            reader.join(5)


def run_sanitizer(seconds: float) -> Iterator[Record]:
    """compute-sanitizer's tools over every small case; said where there is none."""
    program = shutil.which("compute-sanitizer") or shutil.which(
        "/usr/local/cuda/bin/compute-sanitizer"
    )
    if not program:
        yield {"kind": "sanitizer", "missing": "compute-sanitizer is not on the PATH"}
        return
    deadline = time.monotonic() + seconds
    for tool in TOOLS:
        record: Record = {"kind": "sanitizer", "name": tool}
        command = [program, "--tool", tool, "--error-exitcode", "99", "--print-limit", "5",
                   sys.executable, __file__, "--worker", "tiny"]  # fmt: skip
        try:
            left = max(deadline - time.monotonic(), 0.01)
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=min(left, 120.0), check=False
            )
            record["passed"] = done.returncode == 0
            if done.returncode == 99:
                record["failure"] = done.stdout[-600:]
            elif done.returncode:  # it does not work here
                record = {"kind": "sanitizer", "name": tool,
                          "missing": (done.stdout + done.stderr)[-300:]}  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            record["missing"] = f"{type(error).__name__}: {error}"[:200]
        yield record


def write(path: Path, results: Record) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def earlier_cases(path: Path, results: Record, plan: list[str]) -> list[Record]:
    """Those of an earlier run of the same sources on the same machine that will not be run now."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if any(before.get(name) != results[name] for name in ("sources", "emulated")):
        return []
    if before["environment"].get("machine") != results["environment"]["machine"]:
        return []
    return [case for case in before["cases"] if case.get("piece") not in plan]


def run_all(out: Path, budget: float, only: list[str]) -> Record:
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    results: Record = {"environment": environment(), "sources": source_hashes(), "cases": []}
    emulated = os.environ.get("HOTLOOP_CUDA") == "EMULATE"
    results["emulated"] = emulated or bool(os.environ.get("HOTLOOP_CHECK_LIBRARY"))
    path = out / RESULTS
    plan = [piece for piece in PLAN if not only or piece.partition(":")[0] in only]
    results["cases"] = earlier_cases(path, results, plan)
    for piece in plan:
        left = budget - (time.monotonic() - begin)
        if left <= 1:
            results["cases"].append({"kind": "end", "piece": piece, "failure": "out of time"})
            continue
        for record in run_sanitizer(left) if piece == "sanitizer" else run_piece(piece, left):
            record["piece"] = piece
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
    if "missing" in record:
        words.append(f"missing: {record['missing']}")
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
        rows = [f"| case | ms | TFLOP/s | TB/s | {' | '.join(RIVALS)} |",
                "| --- |" + " ---: |" * (3 + len(RIVALS))]  # fmt: skip
        for case in cases:
            if case["kind"] != "time" or "ms" not in case:
                continue
            others = [case.get("rivals", {}).get(n, {}) for n in RIVALS]
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
    parser.add_argument("--dry", action="store_true", help="try everything on the CPU, tiny")
    parser.add_argument("--worker", choices=[*PLAN, "tiny"], help=argparse.SUPPRESS)
    parser.add_argument("--skip", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.skip)
        return 0
    if options.table:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(markdown(TABLE.parent), encoding="utf-8")
        return 0
    if not options.out:
        parser.error("--out must be given")
    if importlib.util.find_spec("hotloop") is None:
        sys.path.insert(0, str(ROOT / "python"))  # built in place, perhaps
        os.environ["PYTHONPATH"] = f"{ROOT / 'python'}:{os.environ.get('PYTHONPATH', '')}"
    try:
        import hotloop  # noqa: F401
    except ImportError as error:
        parser.error(f"hotloop cannot be imported ({error}); {BUILD}")
    if options.dry:
        os.environ["HOTLOOP_CHECK_DRY"] = "1"
        if not os.environ.get("HOTLOOP_CHECK_LIBRARY"):
            os.environ["HOTLOOP_CUDA"] = "EMULATE"
    only = [piece for piece in options.only.split(",") if piece]
    if unknown := [piece for piece in only if piece not in PIECES]:
        parser.error(f"--only knows {','.join(PIECES)}, got {','.join(unknown)}")
    results = run_all(options.out, options.budget, only)
    bad = [c for c in results["cases"] if "failure" in c or c.get("passed") is False]
    print(f"{len(results['cases'])} results in {options.out / RESULTS}, {len(bad)} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
