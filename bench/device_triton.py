"""Triton's part in bench/device_check.py: kernels of the usual shape, one program for each row or
tile. Float32 products without TF32. With TRITON_INTERPRET=1 they run on the CPU."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def _relu(x, y, n, block: tl.constexpr):
    at = tl.program_id(0) * block + tl.arange(0, block)
    value = tl.load(x + at, mask=at < n, other=0.0)
    tl.store(y + at, tl.maximum(value, 0.0), mask=at < n)


@triton.jit
def _add(x, y, z, n, block: tl.constexpr):
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < n
    tl.store(z + at, tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside), mask=inside)


@triton.jit
def _softmax(x, y, n, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * n
    at = tl.arange(0, block)
    value = tl.load(x + row + at, mask=at < n, other=-float("inf"))
    power = tl.exp(value - tl.max(value, axis=0))
    tl.store(y + row + at, power / tl.sum(power, axis=0), mask=at < n)


@triton.jit
def _layer_norm(x, weight, bias, y, n, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * n
    at = tl.arange(0, block)
    inside = at < n
    value = tl.load(x + row + at, mask=inside, other=0.0)
    mean = tl.sum(value, axis=0) / n
    distance = tl.where(inside, value - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(distance * distance, axis=0) / n + eps)
    result = distance * scale * tl.load(weight + at, mask=inside) + tl.load(bias + at, mask=inside)
    tl.store(y + row + at, result, mask=inside)


@triton.jit
def _product(a, b, c, m, n, k, tile_m: tl.constexpr, tile_n: tl.constexpr, tile_k: tl.constexpr):
    rows = tl.program_id(0) * tile_m + tl.arange(0, tile_m)
    columns = tl.program_id(1) * tile_n + tl.arange(0, tile_n)
    depth = tl.arange(0, tile_k)
    total = tl.zeros((tile_m, tile_n), dtype=tl.float32)
    for first in range(0, k, tile_k):
        at = first + depth
        left = tl.load(
            a + rows[:, None] * k + at[None, :],
            mask=(rows[:, None] < m) & (at[None, :] < k),
            other=0.0,
        )
        right = tl.load(
            b + at[:, None] * n + columns[None, :],
            mask=(at[:, None] < k) & (columns[None, :] < n),
            other=0.0,
        )
        total = tl.dot(left, right, total, input_precision="ieee")
    where = c + rows[:, None] * n + columns[None, :]
    tl.store(where, total, mask=(rows[:, None] < m) & (columns[None, :] < n))


def relu(torch: Any, x: Any) -> Any:
    y = torch.empty_like(x)
    _relu[(triton.cdiv(x.numel(), 1024),)](x, y, x.numel(), block=1024)
    return y


def add(torch: Any, x: Any, y: Any) -> Any:
    z = torch.empty_like(x)
    _add[(triton.cdiv(x.numel(), 1024),)](x, y, z, x.numel(), block=1024)
    return z


def softmax(torch: Any, x: Any) -> Any:
    y = torch.empty_like(x)
    rows, n = x.shape
    _softmax[(rows,)](x, y, n, block=triton.next_power_of_2(n), num_warps=8)
    return y


def layer_norm(torch: Any, x: Any, weight: Any, bias: Any) -> Any:
    y = torch.empty_like(x)
    rows, n = x.shape
    block = triton.next_power_of_2(n)
    _layer_norm[(rows,)](x, weight, bias, y, n, 1e-5, block=block, num_warps=8)
    return y


def product(torch: Any, a: Any, b: Any) -> Any:
    (m, k), n = a.shape, b.shape[1]
    c = torch.empty((m, n), device=a.device, dtype=a.dtype)
    grid = (triton.cdiv(m, 128), triton.cdiv(n, 64))
    _product[grid](a, b, c, m, n, k, tile_m=128, tile_n=64, tile_k=16, num_warps=8)
    return c
