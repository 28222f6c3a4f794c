"""The rivals of bench/device_check.py on the same GPU: PyTorch, JAX and Triton, where installed.

Dry, everything runs on the CPU over tiny arrays, with a stand-in for `torch.cuda`: that measures
nothing, and shows before a GPU's time is spent that no line here has a slip.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

L2_BYTES = 60 << 20  # of an H200

Record = dict[str, Any]


class CpuCuda:
    """What is used of `torch.cuda`, on the CPU: graphs replay nothing, events are clocks."""

    class Stream:
        pass

    class CUDAGraph:
        def replay(self) -> None:
            pass

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.time = 0.0

        def record(self) -> None:
            self.time = time.perf_counter()

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end: Any) -> float:
            return float(end.time - self.time) * 1e3 + 1e-6

    @staticmethod
    def stream(stream: Any) -> Any:
        return contextlib.nullcontext(stream)

    @staticmethod
    def graph(graph: Any) -> Any:
        return contextlib.nullcontext(graph)

    @staticmethod
    def synchronize() -> None:
        pass


def place_of(dry: bool) -> tuple[Any, str]:
    """`torch.cuda` or its stand-in, and where tensors go."""
    if dry:
        return CpuCuda, "cpu"
    import torch

    return torch.cuda, "cuda"


def summary(times: list[float]) -> Record:
    ordered = sorted(times)
    return {
        "ms": statistics.median(ordered),
        "p10": ordered[len(ordered) // 10],
        "p90": ordered[-1 - len(ordered) // 10],
    }


def sets_of(case: Any, dry: bool) -> int:
    """How many sets of arrays are more than L2 holds."""
    one = sum(a.nbytes for a in case.arrays(1))
    return 2 if dry else int(np.clip(3 * L2_BYTES // max(one, 1) + 1, 3, 16))


def replayed(call: Callable[..., Any], case: Any, rounds: int, dry: bool) -> Record:
    """Times of replays of graphs of `call(*tensors)`, between two events."""
    import torch

    cuda, place = place_of(dry)
    sets = sets_of(case, dry)
    inputs = [[torch.from_numpy(a).to(place) for a in case.arrays(s)] for s in range(sets)]
    graphs = []
    for arrays in inputs:
        stream = cuda.Stream()
        with cuda.stream(stream):
            for _ in range(3):
                call(*arrays)
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            call(*arrays)
        graphs.append(graph)

    def replay(times: int) -> float:
        begin, end = (cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for i in range(times):
            graphs[i % sets].replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / times

    times = sets if dry else int(np.clip(20.0 / max(replay(sets), 1e-3), 20, 2000))
    return summary([replay(times) for _ in range(rounds)])


def torch_times(case: Any, tf32: bool, rounds: int, dry: bool = False) -> Record:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    return replayed(lambda *arrays: case.torch(torch, *arrays), case, rounds, dry)


def triton_times(case: Any, rounds: int, dry: bool = False) -> Record:
    import torch

    import device_triton

    return replayed(lambda *arrays: case.triton(device_triton, torch, *arrays), case, rounds, dry)


def jax_times(case: Any, rounds: int, dry: bool = False) -> Record:
    """Without graphs: wall clock over calls that are all begun before one waits."""
    import jax
    import jax.numpy as jnp

    if jax.default_backend() != "gpu" and not dry:
        raise RuntimeError("jax has no GPU")
    call = jax.jit(lambda *arrays: case.jax(jnp, *arrays))
    inputs = [[jax.device_put(a) for a in case.arrays(s)] for s in range(3)]
    spent = []
    call(*inputs[0]).block_until_ready()
    for _ in range(rounds):
        begin = time.perf_counter()
        last = [call(*inputs[i % 3]) for i in range(21)][-1]
        last.block_until_ready()
        spent.append((time.perf_counter() - begin) / 21 * 1e3)
    return summary(spent)


def rivals(case: Any, rounds: int, dry: bool = False) -> Iterator[tuple[str, Record]]:
    contenders: list[tuple[str, Any]] = []
    if case.torch:
        contenders += [("torch", lambda: torch_times(case, False, rounds, dry)),
                       ("torch TF32", lambda: torch_times(case, True, rounds, dry))]  # fmt: skip
    if case.triton and (not dry or os.environ.get("TRITON_INTERPRET")):
        contenders.append(("triton", lambda: triton_times(case, rounds, dry)))
    if case.jax:
        contenders.append(("jax", lambda: jax_times(case, rounds, dry)))
    for name, run in contenders:
        try:
            yield name, run()
        except Exception as error:  # not installed, no GPU for it, out of memory: said, not fatal
            yield name, {"missing": f"{type(error).__name__}: {error}"[:200]}


def torch_step(
    model: Any, shape: tuple[int, ...], classes: int, optimizer: str, dry: bool = False
) -> Record:
    """A whole training step, eager and graphed."""
    import torch

    cuda, place = place_of(dry)
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.standard_normal(shape, np.float32)).to(place)
    labels = torch.from_numpy(rng.integers(0, classes, shape[0])).to(place)
    model = model.to(place)
    if len(shape) == 4:
        x, model = (t.to(memory_format=torch.channels_last) for t in (x, model))
    params = list(model.parameters())
    if optimizer == "SGD":
        update: Any = torch.optim.SGD(params, lr=0.01, momentum=0.9, foreach=True)
    else:
        # Not every machine has the fused one: neither has the CPU in a dry run.
        fused = {} if dry else {"capturable": True, "fused": True}
        update = torch.optim.AdamW(params, lr=0.001, **fused)

    def step() -> None:
        update.zero_grad(set_to_none=False)
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        update.step()

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    eager_steps, replays = (2, 2) if dry else (200, 500)
    stream = cuda.Stream()
    with cuda.stream(stream):
        for _ in range(5):
            step()
    cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(eager_steps):
        step()
    cuda.synchronize()
    eager = (time.perf_counter() - begin) / eager_steps * 1e3
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        step()
    cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(replays):
        graph.replay()
    cuda.synchronize()
    return {"eager_ms": eager, "graph_ms": (time.perf_counter() - begin) / replays * 1e3}
