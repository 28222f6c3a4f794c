"""The arena: alignment, reuse, bounds, lifetime; seen through the arrays that kernels return."""

from __future__ import annotations

import gc
import itertools
import threading

import numpy as np
import pytest

from hotloop import _core
from hotloop.kernels import uniform


def stats():
    gc.collect()
    return _core.arena_stats()


# Under AddressSanitizer nothing is kept, so that overruns are seen.
def keeps() -> bool:
    _core.arena_trim()
    uniform(1000)
    return stats()["cached_bytes"] > 0


@pytest.mark.parametrize("size", [0, 1, 15, 100, 5000, 300_000, 3_000_000])
def test_arrays_are_aligned(size):
    x = uniform(size)
    assert x.ctypes.data % 64 == 0
    assert x.flags.writeable
    x[...] = 1
    assert x.sum() == size


def test_memory_goes_back_and_is_used_again():
    if not keeps():
        pytest.skip("built to keep nothing")
    before = stats()
    x = uniform(10_000)
    during = stats()
    assert during["in_use_bytes"] >= before["in_use_bytes"] + 40_000
    address = x.ctypes.data
    view = x[5:].reshape(-1, 5)
    del x
    assert stats()["in_use_bytes"] == during["in_use_bytes"]  # the view holds it
    del view
    after = stats()
    assert after["in_use_bytes"] == before["in_use_bytes"]
    assert after["cached_bytes"] >= 40_000
    y = uniform(10_001)  # of a like size
    assert y.ctypes.data == address
    assert stats()["cache_hits"] > before["cache_hits"]


def test_large_arrays_lie_apart_modulo_4_kb():
    if not keeps():
        pytest.skip("built to keep nothing")
    _core.arena_trim()  # new ones each: a kept one stays where it is
    arrays = [uniform(1_000_000) for _ in range(4)]
    places = sorted(x.ctypes.data % 4096 for x in arrays)
    assert min(b - a for a, b in itertools.pairwise(places)) >= 512
    for x in arrays:
        x[...] = 1  # to the last byte
    del arrays, x
    _core.arena_trim()
    assert stats()["cached_bytes"] == 0


def test_trim_gives_back():
    for size in (100, 10_000, 3_000_000):
        uniform(size)
    _core.arena_trim()
    assert stats()["cached_bytes"] == 0
    assert (uniform(3_000_000) < 1).all()


def test_waste_is_bounded():
    for size in (1, 100, 1000, 12_345, 1_000_000):
        before = stats()["in_use_bytes"]
        x = uniform(size)
        used = stats()["in_use_bytes"] - before
        assert x.nbytes + 64 <= used <= max(256, 1.125 * (x.nbytes + 64) + 4096)
        del x


def test_what_is_kept_is_bounded():
    """Many sizes, each freed: no more is held than twice what was once in use, or 64 MiB kept."""
    _core.arena_trim()
    for size in range(100_000, 5_000_000, 100_000):
        uniform(size)
    assert stats()["cached_bytes"] <= max(64 << 20, 2 * (stats()["in_use_bytes"] + 24_000_000))


def test_a_round_of_sizes_is_kept_whole():
    """One array after another of other sizes, again and again: the second round asks for none."""
    if not keeps():
        pytest.skip("built to keep nothing")
    held = uniform(24_000_000)  # bytes: four times that
    for again in range(3):
        before = stats()
        for size in range(1_000_000, 9_000_000, 1_000_000):  # 144 MB in all
            uniform(size)
        after = stats()
        missed = after["allocations"] - before["allocations"]
        missed -= after["cache_hits"] - before["cache_hits"]
        assert missed == 0 or again == 0
    del held
    _core.arena_trim()


def test_many_threads():
    def work(seed):
        rng = np.random.default_rng(seed)
        held = []
        for _ in range(200):
            x = uniform(int(rng.integers(0, 20_000)), key=(seed, 1))
            x[...] = seed
            held.append(x)
            if len(held) > 10:
                held.pop(int(rng.integers(0, 10)))
        good.append(all((x == seed).all() for x in held))

    good: list[bool] = []
    before = stats()["in_use_bytes"]
    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert good == [True] * 8
    assert stats()["in_use_bytes"] == before


def test_no_memory_is_an_error_with_its_size():
    with pytest.raises(MemoryError, match="uniform: no memory for a result of shape"):
        uniform(2**58)
