"""The pool under ThreadSanitizer: what callers write before a launch, workers read, and back."""

from __future__ import annotations

import platform
import shutil
import subprocess
from typing import Any

import pytest

from emulated import CSRC, compiler, run_compiler

# Callers fill `in` and read `out` without atomics: only the pool's own order makes that right.
DRIVER = r"""
#include <cstdio>
#include <numeric>
#include <thread>
#include <vector>

#include "core/launch.h"
#include "core/threads.h"

struct Job { const std::vector<long>* in; std::vector<long>* out; };
static void square(const void* context, std::int64_t piece) {
  const Job& job = *static_cast<const Job*>(context);
  const auto at = static_cast<std::size_t>(piece);
  (*job.out)[at] = (*job.in)[at] * (*job.in)[at];
}
static int asked = 0;  // by the one caller that stops

static long caller(int salt, int rounds) {
  long wrong = 0;
  for (int round = 0; round < rounds; ++round) {
    const auto pieces = static_cast<std::size_t>(1 + (round * 7 + salt) % 40);
    std::vector<long> in(pieces), out(pieces, -1);
    std::iota(in.begin(), in.end(), round);
    const Job job{&in, &out};
    hotloop::run_pieces(square, &job, static_cast<std::int64_t>(pieces), 1 + round % 4,
                        round % 2 == 0, round % 3 == 0, nullptr);
    for (std::size_t i = 0; i < pieces; ++i) wrong += out[i] != in[i] * in[i];
  }
  return wrong;
}

int main() {
  hotloop::set_num_threads(4);
  long wrong = caller(0, 4000);
  long of_threads[3] = {};
  std::vector<std::thread> callers;
  for (int t = 0; t < 3; ++t) callers.emplace_back([&, t] { of_threads[t] = caller(t, 1500); });
  for (std::thread& thread : callers) thread.join();
  for (const long count : of_threads) wrong += count;
  for (int round = 0; round < 300; ++round) {  // stopped in the middle, and the pool goes on
    std::vector<long> in(64, 3), out(64, -1);
    const Job job{&in, &out};
    asked = 0;
    hotloop::run_pieces(square, &job, 64, 4, false, false, [] { return ++asked > 5; });
    for (const long value : out) wrong += value != -1 && value != 9;
    hotloop::set_num_threads(1 + round % 4);
  }
  std::printf("wrong: %ld\n", wrong);
  return wrong != 0;
}
"""


# A worker that leaves without handing over what it wrote.
LEAVING = "pool.gate.fetch_sub(kInside, std::memory_order_acq_rel)"


def starts(command: list[Any]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("planted", [False, True])
def test_threads_hand_over_without_races(planted, tmp_path):
    flags = ["-std=c++20", "-O1", "-g", "-fsanitize=thread", "-pthread", f"-I{CSRC}"]
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() {}\n")
    # Older sanitizers start only where addresses are not drawn at random.
    fixed = [found, "-R"] if (found := shutil.which("setarch")) else []
    build = [compiler(), *flags, empty, "-o", tmp_path / "empty"]
    ways = [way for way in ([], fixed) if starts(build) and starts([*way, tmp_path / "empty"])]
    if not ways:
        pytest.skip(f"ThreadSanitizer does not run here ({compiler()}, {platform.release()})")
    driver, pool = tmp_path / "driver.cpp", tmp_path / "threads.cpp"
    driver.write_text(DRIVER)
    text = (CSRC / "core" / "threads.cpp").read_text()
    assert LEAVING in text
    pool.write_text(
        text.replace(LEAVING, LEAVING.replace("acq_rel", "relaxed") if planted else LEAVING)
    )
    run_compiler(*flags, driver, pool, CSRC / "core" / "cpu_count.cpp", "-o", tmp_path / "driver")
    done = subprocess.run(
        [*ways[0], tmp_path / "driver"], capture_output=True, text=True, check=False, timeout=300
    )
    if planted:
        assert "data race" in done.stderr
    else:
        assert done.returncode == 0, done.stdout + done.stderr[-6000:]
        assert "wrong: 0" in done.stdout
