"""The demo: real digits, learnt well, with the same weights for any number of threads."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import hotloop as hl

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from hotloop.demo.training import (
    build_network,
    train_digits,
    training_flops,
    weights_hash,
)

SEEDS = range(5)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The whole demo as a user runs it, once; its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "hotloop", "demo", "--output-dir", str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "DISPLAY": "", "MPLCONFIGDIR": str(folder / "config")},
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


def accuracy_in(text):
    return float(re.search(r"Test accuracy: ([\d.]+) %", text)[1]) / 100


def test_the_demo_learns(printed):
    _, out, _ = printed
    assert accuracy_in(out) >= 0.985


def test_the_demo_says_what_it_should(printed):
    _, out, err = printed
    for text in ("Confusion matrix", "Time per epoch", "images/s", "GFLOP/s", "Weights (SHA-256)"):
        assert text in out
    for text in ("epoch 1/20", "epoch 20/20", "loss", "accuracy", "images/s"):
        assert text in err
    rows = re.findall(r"^ +\d \|(.*)$", out, re.M)
    counts = [[0 if n == "." else int(n) for n in row.split()] for row in rows]
    assert np.shape(counts) == (10, 10)
    assert np.sum(counts) == 360
    assert np.trace(counts) / 360 == pytest.approx(accuracy_in(out), abs=1e-4)
    again = float(re.search(r"read back: ([\d.]+) %", out)[1]) / 100
    assert again == accuracy_in(out)


def test_the_demo_writes_its_files(printed):
    folder, out, _ = printed
    assert (folder / "hotloop-demo.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (folder / "hotloop-demo.png").stat().st_size > 10_000
    assert (folder / "hotloop-demo.json").exists()
    model = build_network()
    model.load_state_dict(hl.load(folder / "hotloop-demo.safetensors"))
    assert weights_hash(model) == re.search(r"SHA-256\): (\w+)", out)[1]


def test_five_seeds_learn(printed):
    accuracies = [accuracy_in(printed[1])] + [train_digits(seed).accuracy for seed in SEEDS[1:]]
    assert np.mean(accuracies) >= 0.98


def test_the_same_weights_for_any_number_of_threads():
    before = hl.get_num_threads()
    hashes = set()
    try:
        for threads in (1, 2, 3):
            hl.set_num_threads(threads)
            hashes.add(train_digits(seed=1, epochs=1).weights_hash)
    finally:
        hl.set_num_threads(before)
    assert len(hashes) == 1
    assert train_digits(seed=2, epochs=1).weights_hash not in hashes


def test_operations_are_counted_inside_the_image():
    first, second = 2 * 16 * 22 * 22, 2 * 16 * 32 * 22 * 22
    dense = 2 * (512 * 128 + 128 * 10)
    assert training_flops(build_network(), (1, 8, 8)) == 2 * first + 3 * (second + dense)
