"""Philox 4x32-10: the published answers, and the state that gives every call its own stream."""

from __future__ import annotations

import numpy as np
import pytest

import hotloop as hl
from hotloop import _core

M = (0xD2511F53, 0xCD9E8D57)
W = (0x9E3779B9, 0xBB67AE85)


def philox_words(seed: int, stream: int, blocks: int) -> np.ndarray:
    """(4, blocks) words of the blocks 0, 1, ...: the algorithm once more, in NumPy."""
    low = np.uint64(0xFFFFFFFF)
    index = np.arange(blocks, dtype=np.uint64)
    c = [
        index,
        index >> np.uint64(32),
        np.full(blocks, stream & 0xFFFFFFFF, np.uint64),
        np.full(blocks, stream >> 32, np.uint64),
    ]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(M[0]), c[2] * np.uint64(M[1])
        high0, high1 = p0 >> np.uint64(32), p1 >> np.uint64(32)
        c = [high1 ^ c[1] ^ np.uint64(key[0]), p1 & low, high0 ^ c[3] ^ np.uint64(key[1]), p0 & low]
        key = [(k + w) & 0xFFFFFFFF for k, w in zip(key, W)]
    return np.stack(c)


# Random123 1.14, kat_vectors, philox4x32 10: counter, key, answer.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter, key, answer):
    seed = key[0] | key[1] << 32
    index, stream = counter[0] | counter[1] << 32, counter[2] | counter[3] << 32
    assert _core.philox(seed, stream, index) == answer


def test_reference_agrees():
    words = philox_words(12345678901234567890, 2**63 + 5, 9)
    for block in range(9):
        expected = tuple(int(w) for w in words[:, block])
        assert _core.philox(12345678901234567890, 2**63 + 5, block) == expected


@pytest.fixture(autouse=True)
def keep_state():
    key = _core.get_key()
    yield
    _core.set_key(*key)


def test_seed_returns_to_the_same_streams():
    hl.seed(7)
    first = [hl.kernels.random_key() for _ in range(3)]
    assert first == [(7, 0), (7, 1), (7, 2)]
    hl.seed(7)
    assert [hl.kernels.random_key() for _ in range(3)] == first
    state = _core.get_key()
    after = hl.kernels.random_key()
    _core.set_key(*state)
    assert hl.kernels.random_key() == after == (7, 3)


def test_calls_draw_different_numbers_until_the_seed_is_set_again():
    hl.seed(1)
    a, b = hl.kernels.uniform(50), hl.kernels.uniform(50)
    hl.seed(np.int64(1))
    c = hl.kernels.uniform(50)
    hl.seed(2**64 - 1)
    d = hl.kernels.uniform(50)
    assert not np.array_equal(a, b)
    assert np.array_equal(a, c)
    assert not np.array_equal(a, d)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_seed_out_of_range(value):
    with pytest.raises(ValueError, match=r"seed: value must be from 0 to 2\*\*64 - 1, got"):
        hl.seed(value)


def test_seed_must_be_an_integer():
    with pytest.raises(TypeError):
        hl.seed(1.5)
