"""Compiles CUDA sources with the host compiler against csrc/emulation/ and loads them."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

CSRC = Path(__file__).resolve().parent.parent / "csrc"
FLAGS = ["-std=c++20", "-fPIC", "-fno-math-errno", "-ffp-contract=off", "-Wall", "-Wextra"]
FLAGS += ["-Wno-unknown-pragmas"]  # nvcc's #pragma unroll
# The sanitizers' run preloads their libraries: then the kernels are compiled for them as well.
ASAN = "libasan" in os.environ.get("LD_PRELOAD", "")
ORDERS = {"forward": (0, 0), "reverse": (1, 0), "random": (2, 5)}


@functools.cache
def compiler() -> str:
    """The host compiler; skips the test where there is none."""
    for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    pytest.skip("no C++ compiler: CUDA sources cannot be run on the CPU")


@functools.cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp(prefix="hotloop-emulated-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def run_compiler(*arguments: str | Path) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        [compiler(), *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]


def compile_object(source: Path, flags: tuple[str, ...]) -> Path:
    where = folder() / f"{source.stem}-{abs(hash((source, flags)))}.o"
    if not where.exists():
        run_compiler(*FLAGS, *flags, f"-I{CSRC}", "-x", "c++", "-c", source, "-o", where)
    return where


def link(sources: tuple[Path, ...], to: Path, flags: tuple[str, ...], *link_flags: str) -> None:
    flags = (*flags, "-DHOTLOOP_CUDA_EMULATE")
    with ThreadPoolExecutor(2) as pool:
        everything = (*sources, *sorted((CSRC / "emulation").glob("*.cpp")))
        objects = list(pool.map(lambda source: compile_object(source, flags), everything))
    run_compiler(*flags, *objects, *link_flags, "-ldl", "-o", to)


@functools.cache
def library(*sources: Path, flags: tuple[str, ...] = ("-O2",)) -> ctypes.CDLL:
    """The sources and the emulator as one loaded library."""
    if ASAN:
        flags = ("-O1", "-g1", "-fsanitize=address", *flags[1:])
    where = folder() / f"{sources[0].stem}-{abs(hash((sources, flags)))}.so"
    link(sources, where, flags, "-shared")
    loaded = ctypes.CDLL(str(where))
    loaded.hotloop_emulation_message.restype = ctypes.c_char_p
    loaded.hotloop_emulation_order.argtypes = [ctypes.c_int, ctypes.c_uint64]
    return loaded


def kernels(family: str) -> ctypes.CDLL:
    """csrc/kernels/cuda/<family>.cu, on the CPU."""
    return library(CSRC / "kernels" / "cuda" / f"{family}.cu")


@contextmanager
def thread_order(loaded: ctypes.CDLL, name: str) -> Iterator[None]:
    """In which order the threads of a block run, and the blocks."""
    loaded.hotloop_emulation_order(*ORDERS[name])
    try:
        yield
    finally:
        loaded.hotloop_emulation_order(*ORDERS["forward"])


def call(loaded: ctypes.CDLL, name: str, args: ctypes.Structure, units: int = 1) -> None:
    """Runs a kernel with its argument struct; raises with the emulator's message."""
    status = getattr(loaded, f"hotloop_cuda_{name}")(
        ctypes.byref(args), ctypes.c_int64(units), None
    )
    if status != 0:
        raise RuntimeError(f"{name}: {status} {loaded.hotloop_emulation_message().decode()}")


def workspace(loaded: ctypes.CDLL, name: str, args: ctypes.Structure) -> int:
    """The bytes of scratch that a kernel wants."""
    function = getattr(loaded, f"hotloop_cuda_{name}_workspace")
    function.restype = ctypes.c_int64
    return int(function(ctypes.byref(args)))


def poisoned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array of NaN, to be written: a place that was left out stays NaN."""
    return np.full(shape, np.nan, dtype)
