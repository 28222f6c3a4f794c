"""All CUDA sources as one library for the CPU, and programs that run on it as on a GPU.

The library is built once, kept by the hash of its sources, and shared by the processes of a run.
Where there is a GPU and a library for it, `HOTLOOP_TEST_CUDA=device` runs the same tests there.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from emulated import ASAN, CSRC, FLAGS, compiler, run_compiler
from hotloop import _core
from hotloop.device_array import DeviceArray

ON_DEVICE = os.environ.get("HOTLOOP_TEST_CUDA", "") == "device"


def sources() -> list[Path]:
    found = [CSRC.glob(f"kernels/cuda/{pattern}") for pattern in ("*.cu", "runtime/*.cu")]
    return sorted(path for each in (*found, CSRC.glob("emulation/*.cpp")) for path in each)


def store() -> Path:
    """A folder of this user's alone, the same for all processes of a run."""
    path = Path(tempfile.gettempdir()) / f"hotloop-emulated-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    about = path.lstat()
    assert stat.S_ISDIR(about.st_mode)
    assert about.st_uid == os.getuid()
    return path


def key(flags: list[str]) -> str:
    digest = hashlib.sha256(repr((compiler(), flags)).encode())
    version = subprocess.run([compiler(), "--version"], capture_output=True, check=False)
    digest.update(version.stdout)
    for path in sorted(p for p in CSRC.rglob("*") if p.suffix in (".cu", ".cuh", ".h", ".cpp")):
        if path.relative_to(CSRC).parts[0] in ("kernels", "math", "core", "emulation"):
            digest.update(str(path.relative_to(CSRC)).encode() + path.read_bytes())
    return digest.hexdigest()[:24]


@functools.cache
def library() -> Path:
    """Builds it, or waits for the process that does."""
    flags = [*FLAGS, "-O1", "-DHOTLOOP_CUDA_EMULATE", f"-I{CSRC}"]
    name = f"{key(flags)}.so"
    with open(store() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = store() / name
        if path.exists():
            return path
        for old in store().glob("*.so"):
            old.unlink()
        work = Path(tempfile.mkdtemp(dir=store()))
        try:

            def compiled(item: tuple[int, Path]) -> Path:
                to = work / f"{item[0]}.o"
                run_compiler(*flags, "-x", "c++", "-c", item[1], "-o", to)
                return to

            with ThreadPoolExecutor(2) as pool:
                objects = list(pool.map(compiled, enumerate(sources())))
            run_compiler(*flags, "-shared", *objects, "-ldl", "-lpthread", "-o", work / name)
            (work / name).rename(path)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return path


@contextmanager
def cuda_devices() -> Iterator[None]:
    """Device "cuda" inside: two emulated ones, or what the machine has."""
    if ON_DEVICE:
        yield
        return
    if ASAN:
        pytest.skip("the sanitizers see the CUDA sources family by family (tests/emulated.py)")
    _core.cuda_use_library(str(library()))
    try:
        yield
    finally:
        _core.cuda_use_library("")


def put(array: np.ndarray) -> DeviceArray:
    """The array on the first device."""
    return _core.cuda_array(np.asarray(array), 0)


def get(array: DeviceArray) -> np.ndarray:
    """The array back on the host."""
    return array._to_host()
