"""The machine's limits as contenders: loops that only compute, or only move memory."""

from __future__ import annotations

import numpy as np

from hotloop import _core

from .case import Arrays, Call, Case

_PIECE = 32768  # bytes: the probes move whole pieces


def _array(size: float) -> np.ndarray:
    """Random float32 of about `size` bytes: whole pieces, cache-line aligned.

    Random, since zeros are written some 7 % faster (Zen 4, 2^24 floats).
    """
    count = max(1, round(size / _PIECE)) * _PIECE // 4
    memory = np.empty(count + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    array = memory[start : start + count]
    tile = np.random.default_rng(0).standard_normal(1 << 18, dtype=np.float32)
    for first in range(0, count, len(tile)):
        array[first : first + len(tile)] = tile[: count - first]
    return array


_LEAST_FLOPS = 2e7  # below, starting threads and counting would be most of the time


def share_of_probe(case: Case) -> float:
    """The case's work over the probe's: small cases are measured by a larger probe.

    An in-place ceiling walks as much memory as the case does, reading and writing all of it, where
    the case may only read a part (an optimizer's gradients).
    """
    if case.ceiling == "update" and case.touched:
        return case.bytes / (2 * case.touched)
    small = case.ceiling.startswith("fma") and 0 < case.flops < _LEAST_FLOPS
    return case.flops / _LEAST_FLOPS if small else 1.0


def probe(case: Case) -> Call:
    """A call that does the case's work at the limit: as many operations, or as many bytes.

    "fma" multiplies and adds in registers, "fma64" at the rate of float64; "dot_bf16" and
    "dot_int8" do so in dot products of bf16 and of bytes (one instruction each at the best level:
    twice and four times fma's operations). "read" sums up an array of the case's bytes, "update"
    adds to half as many in place, "copy" and "copy_nt" (stores around the caches) move one half to
    the other. "add_nt" exists over the case's own arrays only, as `beside` makes it.
    """
    if case.ceiling in ("fma", "fma64"):
        flops = case.flops / share_of_probe(case)
        flops *= 2 if case.ceiling == "fma64" else 1  # half the lanes
        return lambda: _core.probe_fma(flops)
    if case.ceiling in ("dot_bf16", "dot_int8"):
        flops, of_bytes = case.flops, case.ceiling == "dot_int8"
        return lambda: _core.probe_dot(flops, of_bytes)
    if case.ceiling == "read":
        array = _array(case.bytes)
        return lambda: _core.probe_traffic("read", array)
    if case.ceiling == "update":
        array = _array(case.touched or case.bytes / 2)  # each byte is read and written
        return lambda: _core.probe_traffic("update", array)
    if case.ceiling in ("copy", "copy_nt"):
        name, source, target = case.ceiling, _array(case.bytes / 2), _array(case.bytes / 2)
        return lambda: _core.probe_traffic(name, source, target)
    raise ValueError(
        f"ceilings: a case's ceiling must be fma, fma64, dot_bf16, dot_int8, read, copy, copy_nt "
        f"or update, got {case.ceiling!r} in {case.key!r}"
    )


def beside(case: Case, arrays: Arrays) -> tuple[Call, float]:
    """The memory ceiling over the case's own arrays, and the case's bytes over those it moves.

    "read" walks one array, "copy" and "copy_nt" two, "add_nt" three: it stores the sum of the first
    two around the caches, the traffic of a gradient made of dy and of what was saved. Where arrays
    lie in memory, and what they hold, counts for some percent: so it is the same for both.
    """
    flat = [arrays[name].reshape(-1) for name in case.over]
    skip = -flat[-1].ctypes.data % 64 // 4  # stores around the caches are aligned
    count = (min(len(array) for array in flat) - skip) * 4 // _PIECE * _PIECE // 4
    parts = [array[skip : skip + count] for array in flat]
    share = case.bytes / (4.0 * count * len(parts))
    name = case.ceiling
    if (name, len(parts)) == ("read", 1):
        return lambda: _core.probe_traffic("read", parts[0]), share
    if (name, len(parts)) in (("copy", 2), ("copy_nt", 2)):
        return lambda: _core.probe_traffic(name, *parts), share
    if (name, len(parts)) == ("add_nt", 3):
        return lambda: _core.probe_traffic("add_nt", parts[0], parts[2], parts[1]), share
    raise ValueError(
        f"ceilings: `over` must name one array for read, two for copy and copy_nt, three for "
        f"add_nt, got {case.over} for {name!r} in {case.key!r}"
    )
