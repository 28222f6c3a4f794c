"""The emulator itself: right kernels give the right result in every order of threads, and planted
faults are caught, with a message and not by hanging."""

from __future__ import annotations

import ctypes
import os
import subprocess

import numpy as np
import pytest

from emulated import ORDERS, folder, library, link, poisoned, thread_order

SOURCE = r"""
#include <cstdint>
#include "emulation/cuda.h"

struct Args { const float* x; float* y; std::int64_t n, fault; };

// y[block] = sum over a row of x, by a tree in shared memory.
template <class T>
__global__ void tree(Args a) {
  __shared__ T part[64];
  const unsigned t = threadIdx.x;
  part[t] = 0;
  for (std::int64_t i = t; i < a.n; i += blockDim.x) part[t] += a.x[blockIdx.x * a.n + i];
  for (unsigned half = 32; half > 0; half /= 2) {
    if (a.fault != 1) __syncthreads();  // 1: a removed barrier
    if (a.fault == 2 && t >= half) return;  // 2: leaves before the barrier
    if (a.fault == 3 && t == 7) __syncthreads();  // 3: a barrier of one thread
    if (t < half) part[t] += part[t + half + (a.fault == 4 ? 1 : 0)];  // 4: off by one
  }
  if (t == 0) a.y[blockIdx.x] = part[0];
}

// The same with shuffles, one warp.
__global__ void warp(Args a) {
  HOTLOOP_SHARED(float, row);
  const int lane = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (std::int64_t i = lane; i < a.n; i += 32) sum += a.x[blockIdx.x * a.n + i];
  if (a.fault == 5 && lane == 9) {  // 5: a lane that skips the shuffles
    row[lane] = sum;
    __syncthreads();
    return;
  }
  if (a.fault == 6 && lane == 9) return;  // 6: a lane that has left
  // 7: a lane that is not in its mask
  const unsigned mask = a.fault == 7 && lane == 3 ? 0xfffffff0u : 0xffffffffu;
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  for (int by = 16; by > 0; by /= 2) {
    // 8: reads lanes that are not in the mask
    sum += __shfl_xor_sync(a.fault == 8 ? half : mask, sum, by);
  }
  if (a.fault == 9) {  // 9: one warp at two places
    if (lane < 16)
      __syncwarp();
    else
      __syncwarp();
  }
  row[lane] = sum;
  if (a.fault == 10) row[32 + lane / 31] = sum;  // 10: beside its shared memory
  __syncthreads();
  if (lane == 0) a.y[blockIdx.x] = row[31];
}

// Every other intrinsic that takes a warp or a block, against what it must give.
__global__ void votes(Args a) {
  const int lane = static_cast<int>(threadIdx.x % 32), t = static_cast<int>(threadIdx.x);
  bool good = __ballot_sync(~0u, lane % 3 == 0) == 0x49249249u;
  good &= __all_sync(~0u, lane < 32) && !__all_sync(~0u, lane < 31);
  good &= __any_sync(~0u, lane == 31) && !__any_sync(~0u, lane == 32);
  good &= __shfl_sync(~0u, lane, 5) == 5 && __shfl_sync(~0u, lane, 5, 8) == lane / 8 * 8 + 5;
  good &= __shfl_up_sync(~0u, lane, 3) == (lane < 3 ? lane : lane - 3);
  good &= __shfl_down_sync(~0u, lane, 3, 16) == (lane % 16 > 12 ? lane : lane + 3);
  good &= __shfl_xor_sync(~0u, static_cast<double>(lane), 9) == (lane ^ 9);
  good &= __reduce_add_sync(~0u, lane) == 496 && __reduce_min_sync(~0u, lane - 7) == -7;
  good &= __match_any_sync(~0u, lane % 2) == (lane % 2 ? 0xaaaaaaaau : 0x55555555u);
  if (lane < 8) good &= __ballot_sync(0xffu, lane > 3) == 0xf0u;
  const int threads = static_cast<int>(blockDim.x);
  good &= __syncthreads_count(t < 40) == 40;
  good &= __syncthreads_and(t < threads) && !__syncthreads_and(t != 50);
  good &= __syncthreads_or(t == 50) && !__syncthreads_or(t < 0);
  __shared__ unsigned counted;
  if (t == 0) counted = 0;
  __syncthreads();
  atomicAdd(&counted, 1u);
  atomicMax(&counted, 0u);
  __syncthreads();
  a.y[t] = good && counted == blockDim.x ? 1.0f : 0.0f;
}

// Shared memory does not live on from block to block.
__global__ void leftover(Args a) {
  __shared__ float number;
  HOTLOOP_SHARED(float, other);
  if (blockIdx.x == 0) number = other[0] = 1;
  __syncthreads();
  a.y[blockIdx.x] = number + other[0];
}

// y[block] = the last number of a row of x, brought by asynchronous copies; zeros beyond n.
__global__ void brought(Args a) {
  HOTLOOP_SHARED(float, row);
  const int t = static_cast<int>(threadIdx.x);
  const float* const from = a.x + blockIdx.x * a.n;
  // 11: copies 8 bytes to places of 4
  hotloop::emulation::copy_async(row + t, t < a.n ? from + t : nullptr, a.fault == 11 ? 8 : 4);
  if (a.fault == 12) return;  // 12: leaves while they are under way
  if (a.fault != 13) hotloop::emulation::copies_wait();  // 13: does not wait for them
  if (a.fault != 14) __syncthreads();                    // 14: nor for those of the others
  if (t == 0) a.y[blockIdx.x] = row[31] + row[a.n - 1];
  if (a.fault == 13) hotloop::emulation::copies_wait();
}

__global__ void count_up(Args a) { a.y[blockIdx.x] += 1; }

extern "C" int run(int which, Args a, unsigned blocks, unsigned threads, unsigned shared) {
  cudaStream_t stream = nullptr;
  if (which == 0) HOTLOOP_LAUNCH((tree<float>), blocks, threads, 0, stream, a);
  if (which == 1) HOTLOOP_LAUNCH(warp, blocks, threads, shared, stream, a);
  if (which == 2) HOTLOOP_LAUNCH(votes, blocks, threads, 0, stream, a);
  if (which == 3) HOTLOOP_LAUNCH(leftover, blocks, threads, 4, stream, a);
  if (which == 4) HOTLOOP_LAUNCH(brought, blocks, threads, 128, stream, a);
  return cudaGetLastError();
}

// A capture does nothing until it is launched, each time anew, and refuses to allocate.
extern "C" int capture(float* y) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  HOTLOOP_LAUNCH(count_up, 2, 1, 0, stream, (Args{nullptr, y, 0, 0}));
  void* memory = nullptr;
  const bool refused = cudaMalloc(&memory, 8) == cudaErrorStreamCaptureUnsupported;
  cudaStreamEndCapture(stream, &graph);
  cudaGetLastError();
  if (!refused || y[0] != 0) return 1;
  cudaGraphInstantiate(&executable, graph, 0);
  for (int i = 0; i < 3; ++i) cudaGraphLaunch(executable, stream);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return y[0] == 3 && y[1] == 3 ? 0 : 2;
}

extern "C" int write_behind(std::int64_t over) {
  void* memory = nullptr;
  if (cudaMalloc(&memory, 40) != cudaSuccess) return -1;
  Args a{nullptr, static_cast<float*>(memory), 0, 0};
  HOTLOOP_LAUNCH(count_up, static_cast<unsigned>(10 + over), 1, 0, nullptr, a);
  cudaMemset(memory, 0, static_cast<std::size_t>(40 + 4 * over));
  return cudaFree(memory);
}

int main() {
  float* row = new float[64];
  for (int i = 0; i < 64; ++i) row[i] = 1;
  float sum = 0;
  const int status = run(0, {row, &sum, FAULT ? 65 : 64, 0}, 1, 64, 0);
  delete[] row;
  return status || sum != 64;
}
"""


class Args(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("fault", ctypes.c_int64),
    )


@pytest.fixture(scope="module")
def emulator():
    source = folder() / "planted.cu"
    source.write_text(SOURCE, encoding="utf-8")
    return library(source, flags=("-O1", "-DFAULT=0"))


def run(emulator, which, x, fault=0, threads=64, shared=128):
    y = poisoned((x.shape[0],), np.float32)
    args = Args(x.ctypes.data, y.ctypes.data, x.shape[1], fault)
    status = emulator.run(which, args, x.shape[0], threads, shared)
    return status, y


TREE, WARP, VOTES, LEFTOVER, BROUGHT = range(5)


@pytest.fixture(params=ORDERS)
def order(request, emulator):
    with thread_order(emulator, request.param):
        yield request.param


@pytest.mark.parametrize("n", [1, 31, 64, 100])
def test_sums_are_right_in_every_order(emulator, order, n):
    x = np.arange(3 * n, dtype=np.float32).reshape(3, n) % 17
    for which, threads in ((TREE, 64), (WARP, 32)):
        status, y = run(emulator, which, x, threads=threads)
        assert status == 0
        np.testing.assert_array_equal(y, x.sum(axis=1))


def test_votes_and_shuffles(emulator, order):
    y = poisoned((64,), np.float32)
    assert emulator.run(VOTES, Args(None, y.ctypes.data, 0, 0), 1, 64, 0) == 0
    np.testing.assert_array_equal(y, 1)


@pytest.mark.parametrize(
    ("fault", "message"),
    [(11, "no multiple"), (12, "has left copies under way"), (13, ""), (14, "")],
)
def test_asynchronous_copies(emulator, fault, message):
    """They come as late as they may; what is read too early is poison, in some order at least."""
    x = np.arange(1, 41, dtype=np.float32).reshape(2, 20)
    seen = False
    for name in ORDERS:
        with thread_order(emulator, name):
            status, y = run(emulator, BROUGHT, x, threads=32)
            assert status == 0
            np.testing.assert_array_equal(y, [20, 40])
            status, y = run(emulator, BROUGHT, x, fault=fault, threads=32)
        if message:
            assert status == 719
            assert message in emulator.hotloop_emulation_message().decode()
        seen |= status != 0 or not np.array_equal(y, [20, 40])
    assert seen


def test_a_removed_barrier_is_seen(emulator):
    """In some order at least: that is what orders are for."""
    x = np.ones((2, 64), np.float32)
    seen = []
    for name in ORDERS:
        with thread_order(emulator, name):
            _, y = run(emulator, TREE, x, fault=1)
        seen.append(not np.array_equal(y, [64, 64]))
    assert any(seen)


def test_an_index_off_by_one_meets_poison(emulator, order):
    x = np.ones((1, 64), np.float32)
    status, y = run(emulator, TREE, x, fault=4)
    assert status != 0 or np.isnan(y[0]) or y[0] != 64


@pytest.mark.parametrize(
    ("which", "fault", "message"),
    [
        (TREE, 2, "has left the kernel"),
        (TREE, 3, "divergence: thread"),
        (WARP, 5, "deadlock: thread"),
        (WARP, 6, "for lanes 0x200; thread 9 has left the kernel"),
        (WARP, 7, "not in its own mask"),
        (WARP, 9, "divergence: lane"),
        (WARP, 10, "beside its dynamic shared memory"),
    ],
)
def test_planted_faults_are_told(emulator, order, which, fault, message):
    x = np.ones((2, 64), np.float32)
    status, _ = run(emulator, which, x, fault=fault, threads=64 if which == TREE else 32)
    assert status == 719
    text = emulator.hotloop_emulation_message().decode()
    assert message in text
    assert ("tree<float>" if which == TREE else "warp") in text
    # The emulator is usable afterwards.
    status, y = run(emulator, TREE, x)
    assert status == 0
    assert y[0] == 64


def test_a_lane_outside_of_the_mask_gives_poison(emulator, order):
    status, y = run(emulator, WARP, np.ones((1, 64), np.float32), fault=8, threads=32)
    assert status == 0
    assert np.isnan(y[0])


def test_shared_memory_is_poisoned_before_each_block(emulator):
    y = poisoned((4,), np.float32)
    assert emulator.run(LEFTOVER, Args(None, y.ctypes.data, 0, 0), 4, 32, 0) == 0
    np.testing.assert_array_equal(np.isnan(y), [False, True, True, True])
    assert y[0] == 2


@pytest.mark.parametrize(
    ("blocks", "threads", "shared", "status"), [(0, 32, 0, 9), (1, 1025, 0, 9), (1, 32, 49153, 1)]
)
def test_launches_that_a_gpu_refuses(emulator, blocks, threads, shared, status):
    assert emulator.run(WARP, Args(None, None, 0, 0), blocks, threads, shared) == status


def test_captures(emulator):
    y = np.zeros(2, np.float32)
    assert emulator.capture(ctypes.c_void_p(y.ctypes.data)) == 0


def test_a_write_behind_an_allocation_is_told_when_it_is_freed(emulator):
    assert emulator.write_behind(ctypes.c_int64(0)) == 0
    assert emulator.write_behind(ctypes.c_int64(1)) == 719
    assert "behind this allocation" in emulator.hotloop_emulation_message().decode()


def test_the_address_sanitizer_sees_through_the_fibers(emulator):
    """A read beyond an array is told with its line; the right program runs clean."""
    source = folder() / "planted.cu"
    asan = ("-O1", "-g1", "-fsanitize=address")
    for fault in (0, 1):
        program = folder() / f"planted-asan-{fault}"
        try:
            link((source,), program, (*asan, f"-DFAULT={fault}"))
        except AssertionError as error:
            pytest.skip(f"the address sanitizer is not there: {str(error)[-200:]}")
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
        environment.pop("LD_PRELOAD", None)
        done = subprocess.run(
            [program], capture_output=True, text=True, check=False, env=environment, timeout=120
        )
        if fault == 0:
            assert done.returncode == 0, done.stderr[-2000:]
        else:
            assert done.returncode != 0
            assert "heap-buffer-overflow" in done.stderr
            assert "tree" in done.stderr
