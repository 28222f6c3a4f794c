"""Compiles CUDA kernels for the development architectures and compares what ptxas says of them with
budget.json: registers, shared memory, stack, spilled bytes. What exceeds the budget fails, and so
do the compiler's warnings and advisories (C75xx).

    python csrc/kernels/cuda/check_budget.py            # all families; the differences, status 1
    python csrc/kernels/cuda/check_budget.py gemm       # one
    python csrc/kernels/cuda/check_budget.py --write    # takes what the compiler says as the budget
    python csrc/kernels/cuda/check_budget.py --objects DIR  # keeps the objects, and links them all
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent
BUDGET = HERE / "budget.json"
COMMAND = "python csrc/kernels/cuda/check_budget.py --write"
ARCHITECTURES = ("80", "90a")
SLACK = 8  # registers that a kernel may take beyond its budget
TARGETS = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC"]

_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.S,
)

FIELDS = ("registers", "shared", "stack", "spills")
Family = dict[str, dict[str, list[int]]]  # architecture -> kernel -> numbers, as in FIELDS


def families() -> list[str]:
    """The names of the .cu files that hold kernels."""
    return sorted(path.stem for path in HERE.glob("*.cu"))


def find_nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def nvcc_release(nvcc: str) -> str:
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release ([\d.]+)", text)
    return found[1] if found else "?"


def readable(mangled: list[str]) -> dict[str, str]:
    """Names as one would write them, without the namespaces that all of them have."""
    tool = shutil.which("c++filt") or shutil.which("cu++filt") or shutil.which("llvm-cxxfilt")
    if not tool or not mangled:
        return {name: name for name in mangled}
    done = subprocess.run(
        [tool], input="\n".join(mangled), capture_output=True, text=True, check=True
    )
    names = {}
    for name, text in zip(mangled, done.stdout.splitlines(), strict=True):
        text = re.sub(r"hotloop::cuda::|\(anonymous namespace\)::|^void ", "", text)
        depth = 0  # without the arguments: the parenthesis that follows the template's
        for i, letter in enumerate(text):
            depth += {"<": 1, ">": -1}.get(letter, 0)
            if letter == "(" and depth == 0:
                text = text[:i]
                break
        names[name] = text.replace("> >", ">>")
    return names


def run_nvcc(nvcc: str, source: Path, to: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [nvcc, *FLAGS, *TARGETS, "-Xptxas=-v,--warn-on-spills,--warn-on-local-memory-usage",
         f"-I{CSRC}", "-c", str(source), "-o", str(to)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def compile_family(nvcc: str, family: str, objects: Path | None = None) -> tuple[Family, list[str]]:
    """What ptxas says, and what must not be."""
    with tempfile.TemporaryDirectory() as folder:
        to = (objects or Path(folder)) / f"{family}.o"
        done = run_nvcc(nvcc, HERE / f"{family}.cu", to)
    log = done.stdout + done.stderr
    if done.returncode != 0:
        return {}, [f"{family}: does not compile\n{log[-3000:]}"]
    faults = [
        f"{family}: {line.strip()}"
        for line in log.splitlines()
        if re.search(r"\bwarning\b|\bC75\d\d\b", line)
        and not re.search("Local memory used|Registers are spilled", line)  # numbers say that
    ]
    entries = list(_ENTRY.finditer(log))
    names = readable(sorted({entry["name"] for entry in entries}))
    found: Family = {arch: {} for arch in ARCHITECTURES}
    for entry in entries:
        shared = re.search(r"(\d+) bytes smem", entry["rest"])
        found[entry["arch"]][names[entry["name"]]] = [
            int(entry["registers"]),
            int(shared[1]) if shared else 0,
            int(entry["stack"]),
            int(entry["stores"]) + int(entry["loads"]),
        ]
    return {arch: dict(sorted(kernels.items())) for arch, kernels in found.items()}, faults


def compare(family: str, found: Family, budget: Family) -> list[str]:
    """Where a kernel takes more than its budget."""
    faults = []
    for arch in ARCHITECTURES:
        then = budget.get(arch, {})
        for kernel, numbers in found.get(arch, {}).items():
            allowed = then.get(kernel, [255, 48 * 1024, 0, 0])
            for what, now, most in zip(FIELDS, numbers, allowed, strict=True):
                slack = SLACK if what == "registers" and kernel in then else 0
                if now > most + slack:
                    faults.append(
                        f"{family}, sm_{arch}: {kernel}: {what} must stay within {most} "
                        f"(+{slack}), got {now}; {COMMAND} if that is meant"
                    )
    return faults


def changed(found: Family, budget: Family) -> list[str]:
    """Kernels that are new, or gone."""
    both = [(arch, found.get(arch, {}), budget.get(arch, {})) for arch in ARCHITECTURES]
    return [
        f"sm_{arch}: {kernel} is {'new' if kernel in now else 'gone'}"
        for arch, now, then in both
        for kernel in sorted(now.keys() ^ then.keys())
    ]


def read_budget() -> dict:
    return json.loads(BUDGET.read_text(encoding="utf-8"))


def check_family(
    nvcc: str, family: str, objects: Path | None = None
) -> tuple[list[str], list[str]]:
    """Faults, and kernels that are new to the budget or gone from it. Of another release of nvcc
    only what does not compile counts."""
    found, faults = compile_family(nvcc, family, objects)
    budget = read_budget()
    if budget["nvcc"] != nvcc_release(nvcc) or not found:
        return faults, []
    known = budget["families"].get(family, {})
    return faults + compare(family, found, known), changed(found, known)


def link(nvcc: str, objects: Path) -> list[str]:
    """The whole library out of the objects, with the runtime's."""
    faults = []
    for source in sorted(HERE.glob("runtime/*.cu")):
        done = run_nvcc(nvcc, source, objects / f"runtime_{source.stem}.o")
        if done.returncode:
            faults.append(f"{source.name}: does not compile\n{done.stderr[-3000:]}")
    if faults:
        return faults
    found = [str(path) for path in sorted(objects.glob("*.o"))]
    done = subprocess.run(
        [nvcc, "-shared", "-cudart", "static", *TARGETS, *found, "-o",
         str(objects / "libhotloop_cuda.so")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [f"the objects do not link\n{done.stderr[-3000:]}"] if done.returncode else []


def as_text(content: dict) -> str:
    """JSON with a kernel on a line."""
    text = json.dumps(content, indent=1) + "\n"
    return re.sub(r"\[\s+([\d,\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", help="all of them if none is named")
    parser.add_argument("--write", action="store_true", help="make the budget anew")
    parser.add_argument("--objects", type=Path, help="keep the objects there, and link all of them")
    parser.add_argument("--jobs", type=int, default=2, help="how many compilers run at once")
    options = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        print("no nvcc found", file=sys.stderr)
        return 2
    wanted = options.families or families()
    if not options.write:
        if options.objects:
            options.objects.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(options.jobs) as pool:
            found = list(pool.map(lambda f: check_family(nvcc, f, options.objects), wanted))
        faults = [line for faults, _ in found for line in faults]
        if options.objects and not faults:
            faults += link(nvcc, options.objects)
        news = [line for _, changed in found for line in changed]
        print("\n".join([*faults, *news]) or "within the budget")
        return 1 if faults else 0
    old = read_budget()["families"] if BUDGET.exists() else {}
    made, faults = {}, []
    for family in families():
        if family in wanted or family not in old:
            made[family], more = compile_family(nvcc, family)
            faults += more
        else:
            made[family] = old[family]
    content = {
        "made by": COMMAND,
        "numbers": FIELDS,
        "nvcc": nvcc_release(nvcc),
        "families": made,
    }
    BUDGET.write_text(as_text(content), encoding="utf-8")
    print("\n".join(faults) or f"wrote {BUDGET.name}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
