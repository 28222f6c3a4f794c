"""Whole training steps that stay on an emulated GPU: nothing is allocated, copied or waited for, so
that they can be captured in graphs, whose memory and random draws are tested as well; and what
kernels find in labels and indices meanwhile."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable

import numpy as np
import pytest

import hotloop as hl
from cuda_library import get, put
from hotloop import _core
from hotloop.device_array import DeviceArray
from test_cuda_training import network

nn, k = hl.nn, hl.kernels

pytestmark = pytest.mark.usefixtures("cuda")


# ---- labels and indices that are out of range ---------------------------------------------------


def losses_of(rng, labels: np.ndarray, **options) -> tuple[DeviceArray, DeviceArray]:
    logits = rng.standard_normal((labels.size, 5)).astype("f4")
    return k.cross_entropy_with_grad(put(logits), put(labels), reduction="none", **options)


@pytest.mark.parametrize("index", ["i4", "i8"])
def test_labels_are_told_at_the_next_read(rng, index):
    labels = np.array([0, 7, 4, -100, 2], index)
    told = (
        r"cross_entropy_with_grad: labels must lie in \[0, 5\), got 7 at position 1 .*"
        "found on cuda:0 after the call had returned.*ignore_index"
    )
    loss, gradient = losses_of(rng, labels)  # the call itself knows nothing of it
    with pytest.raises(ValueError, match=told):
        get(loss)
    loss, gradient = get(loss), get(gradient)  # once is enough, and everything goes on
    np.testing.assert_array_equal(np.isnan(loss), [False, True, False, False, False])
    assert loss[3] == 0
    np.testing.assert_array_equal(gradient[[1, 3]], 0)
    assert np.abs(gradient[[0, 2, 4]]).min() > 0
    losses_of(rng, np.array([0, -1], index))
    with pytest.raises(ValueError, match="got -1 at position 1"):
        hl.cuda.synchronize()
    hl.cuda.synchronize()
    k.nll_loss(put(-np.ones((2, 3), "f4")), put(np.array([0, 3], index)))
    with pytest.raises(ValueError, match=r"nll_loss: labels must lie in \[0, 3\), got 3"):
        hl.ones(2).cuda().tolist()


def test_the_first_fault_stays(rng):
    losses_of(rng, np.array([0, 11]))
    losses_of(rng, np.array([12, 0]))
    with pytest.raises(ValueError, match="got 11 at position 1"):
        hl.cuda.synchronize()
    hl.cuda.synchronize()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mean_leaves_wrong_labels_out(rng, smoothing):
    logits = rng.standard_normal((4, 5)).astype("f4")
    weight = rng.uniform(0.5, 2, 5).astype("f4")
    labels = np.array([1, 9, 0, 3])
    loss, gradient = k.cross_entropy_with_grad(
        put(logits), put(labels), weight=put(weight), label_smoothing=smoothing
    )
    with pytest.raises(ValueError, match="labels must lie in"):
        hl.cuda.synchronize()
    assert np.isnan(get(loss))
    labels[1] = -100
    _, expected = k.cross_entropy_with_grad(
        logits, labels, weight=weight, label_smoothing=smoothing
    )
    np.testing.assert_allclose(get(gradient), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rows", [1, 700, 5000])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_is_that_of_the_cpu(rng, rows, weighted):
    logits = rng.standard_normal((rows, 3)).astype("f8")
    labels = rng.integers(0, 3, rows)
    labels[rng.random(rows) < 0.3] = -100
    labels[0] = 1
    weight = rng.uniform(0.5, 2, 3) if weighted else None
    want = k.cross_entropy_with_grad(logits, labels, weight=weight)
    moved = None if weight is None else put(weight)
    first = k.cross_entropy_with_grad(put(logits), put(labels), weight=moved)
    again = k.cross_entropy_with_grad(put(logits), put(labels), weight=moved)
    for a, b, c in zip(first, again, want):
        np.testing.assert_allclose(get(a), c, rtol=1e-12)
        assert get(a).tobytes() == get(b).tobytes()
    images = np.moveaxis(logits.reshape(rows, 1, 3), 2, 1)  # labels of another shape
    got = k.cross_entropy(put(images), put(labels.reshape(rows, 1)), weight=moved)
    np.testing.assert_allclose(get(got), want[0], rtol=1e-12)


def test_nothing_but_ignored_rows_has_no_mean():
    assert np.isnan(get(k.cross_entropy(put(np.ones((3, 2), "f4")), put(np.full(3, -100)))))


def test_indices_are_told_at_the_next_read(rng):
    weight = rng.standard_normal((256, 6)).astype("f4")
    indices = np.array([[3, 256], [255, -2]])
    rows = k.embedding(put(indices), put(weight))
    with pytest.raises(
        IndexError, match=r"embedding: indices must lie in \[0, 256\), got (256|-2)"
    ):
        hl.cuda.synchronize()
    expected = np.where((indices >= 0) & (indices < 256), 1, 0)[..., None] * weight[indices % 256]
    np.testing.assert_array_equal(get(rows), expected)
    dy = rng.standard_normal((2, 2, 6)).astype("f4")
    got = k.embedding_backward(put(dy), put(indices), 256)
    with pytest.raises(IndexError, match="embedding_backward: indices must lie in"):
        hl.cuda.synchronize()
    good = k.embedding_backward(dy[[0, 1], [0, 0]], indices[[0, 1], [0, 0]], 256)
    np.testing.assert_array_equal(get(got), good)
    np.testing.assert_array_equal(get(k.embedding(put(indices[:, 0]), put(weight))), expected[:, 0])
    with pytest.raises(hl.DTypeError, match="indices must be int64 or int32"):
        k.embedding(put(indices.astype("f4")), put(weight))


# ---- numbers of a step that are on the device ---------------------------------------------------

MOVED = {
    "sgd_step": (1, {"momentum": 0.5}, True),
    "adam_step": (2, {"weight_decay": 0.1}, True),
    "adamw_step": (2, {"weight_decay": 0.1}, True),
    "adamax_step": (2, {}, True),
    "rmsprop_step": (1, {}, False),
    "adagrad_step": (1, {"lr_decay": 0.1}, True),
    "adadelta_step": (2, {}, False),
    "lion_step": (1, {"weight_decay": 0.1}, False),
    "lamb_step": (2, {"weight_decay": 0.1}, True),
}


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("wide", [False, True])
def test_numbers_may_lie_beside_the_arrays(rng, name, wide):
    count, options, counted = MOVED[name]
    step = getattr(k, name)
    slots = [[np.abs(rng.standard_normal((33, 7))).astype("f4")] for _ in range(2 + count)]
    moved = [[put(a) for a in slot] for slot in slots]
    number = np.float64 if wide else np.float32
    for i in (1, 2, 3):
        numbers = {"lr": 0.015625, "grad_scale": 2.0, **({"step": i} if counted else {})}
        want = step(*slots, max_norm=3.0, **numbers, **options)
        there = {key: put(np.array(value, number)) for key, value in numbers.items()}
        got = step(*moved, max_norm=3.0, **there, **options)
        assert float(got) == pytest.approx(want, rel=1e-6)
    for a, b in zip(slots, moved):
        np.testing.assert_allclose(get(b[0]), a[0], rtol=2e-5, atol=1e-6)


def test_numbers_that_cannot_be_there(rng):
    p, g, m, v = (np.ones(4, "f4") for _ in range(4))
    lr = put(np.float32(0.1))
    with pytest.raises(hl.DeviceError, match="nadam_step: lr must be a number of the CPU"):
        k.nadam_step(put(p), put(g), put(m), put(v), lr=lr, step=1, mu_product=0.5)
    with pytest.raises(hl.DeviceError, match="params and lr must lie on one device"):
        k.sgd_step(p, g, lr=lr)
    with pytest.raises(hl.ShapeError, match="lr must be a number or a 0-d array"):
        k.sgd_step(put(p), put(g), lr=put(np.ones(1, "f4")))
    with pytest.raises(hl.DTypeError, match="lr must be float32 or float64 on a GPU"):
        k.sgd_step(put(p), put(g), lr=put(np.int64(1)))


def test_clipping_stays_on_the_device(rng):
    grads = [rng.standard_normal(s).astype("f4") for s in ((9, 5), (4097,))]
    moved = [put(g) for g in grads]
    want = k.clipped_grad_scale(grads, 1.5, grad_scale=4.0)
    got = k.clipped_grad_scale(moved, 1.5, grad_scale=put(np.float32(4)))
    for a, b in zip(got, want):
        assert type(a) is DeviceArray
        assert float(a) == pytest.approx(b, rel=1e-6)
    assert float(k.clipped_grad_scale(moved, 1e9)[1]) == 1
    assert float(k.clipped_grad_scale(moved, 0)[1]) == np.inf
    params = [hl.tensor(g, device="cuda", requires_grad=True) for g in grads]
    for param, grad in zip(params, moved):
        param.grad = hl.tensor(get(grad), device="cuda")
    norm = nn.utils.clip_grad_norm_(params, 1.0)
    assert norm.device == params[0].device
    assert norm.item() == pytest.approx(k.grad_norm(grads), rel=1e-6)
    assert nn.utils.clip_grad_norm_(params, 5.0).item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adamax", "LAMB", "Adadelta", "RMSprop"])
def test_capturable_counts_where_the_parameters_are(rng, name, where):
    """Also of parameters that take part in some steps only, and after a checkpoint."""
    start = [rng.standard_normal(3).astype("f4") for _ in range(3)]
    grads = rng.standard_normal((6, 3, 3)).astype("f4")
    part = [(0, 1, 2), (0, 2), (0, 1, 2), (1,), (0, 1, 2), (2, 0)]
    ends = []
    for capturable in (False, True):
        params = [hl.tensor(p, device=where, requires_grad=True) for p in start]
        optimizer = getattr(hl.optim, name)(params, lr=0.1, capturable=capturable)
        for i, present in enumerate(part):
            optimizer.zero_grad()
            for j in present:
                params[j].grad = hl.tensor(grads[i, j], device=where)
            optimizer.step()
            if i == 3:
                saved = optimizer.state_dict()
                optimizer = getattr(hl.optim, name)(params, lr=0.1, capturable=capturable)
                optimizer.load_state_dict(saved)
        counts = [int(optimizer.state[p]["step"]) for p in params]
        assert counts == [5, 4, 5]
        ends.append([p.tolist() for p in params])
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-5, atol=1e-6)


# ---- whole steps --------------------------------------------------------------------------------


def digits() -> hl.nn.Module:
    """The network of examples/training_loop.py."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )  # fmt: skip


def words() -> hl.nn.Module:
    return nn.Sequential(nn.Embedding(20, 6), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, 5))


NETWORKS: dict[str, tuple[Callable[[], hl.nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: network("mlp"), (16, 12)),
    "cnn": (lambda: network("cnn"), (8, 3, 10, 10)),
    "norms": (lambda: network("norms"), (8, 3, 10, 10)),
    "digits": (digits, (8, 1, 8, 8)),
    "words": (words, (6, 4)),
}
OPTIMIZERS = {
    "SGD": {"momentum": 0.9},
    "Adam": {"capturable": True},
    "AdamW": {"capturable": True},
    "LAMB": {"capturable": True},
}


class Training:
    """A network, its batch and its optimizer, all of them on the device, lr included."""

    def __init__(self, kind: str, optimizer: str) -> None:
        hl.seed(3)
        rng = np.random.default_rng(5)
        make, shape = NETWORKS[kind]
        numbers = rng.integers(0, 20, shape) if kind == "words" else rng.standard_normal(shape)
        self.x = hl.tensor(numbers if kind == "words" else numbers.astype("f4"), device="cuda")
        self.labels = hl.tensor(rng.integers(0, 5, shape[0]), device="cuda")
        self.net = make().to("cuda")
        self.lr = hl.tensor(np.float32(0.01), device="cuda")
        self.optimizer = getattr(hl.optim, optimizer)(
            self.net.parameters(), lr=self.lr, **OPTIMIZERS[optimizer]
        )

    def step(self) -> hl.Tensor:
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.net(self.x), self.labels)
        loss.backward()
        self.optimizer.step(max_norm=0.5)
        return loss.detach()

    def state(self) -> bytes:
        tensors = [tensor.detach() for tensor in self.net.parameters()] + [*self.net.buffers()]
        for state in self.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, hl.Tensor)]
        return b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors)


def traffic() -> dict[str, int]:
    info = _core.cuda_info(0)
    crossed = {name: info[name] for name in info if name.startswith("copies") or "sync" in name}
    return {**crossed, "cudaMalloc": info["allocations"] - info["cache_hits"]}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_step_crosses_no_bus(kind, optimizer):
    training = Training(kind, optimizer)
    for _ in range(2):
        training.step()
    before = traffic()
    loss = training.step()
    assert traffic() == before
    assert np.isfinite(loss.item())
    assert traffic() == {**before, "copies_to_host": before["copies_to_host"] + 1}


def captured(step: Callable) -> tuple:
    """A graph of the step, what its replays write, and what the capture asked of the driver."""
    graph = _core.CudaGraph(0)
    graph.begin()
    before = traffic()
    try:
        result = step()
    finally:
        graph.end()
    return graph, result, {name: n - before[name] for name, n in traffic().items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_captured_step_advances_itself(kind, optimizer):
    """Replays give the bits of as many eager steps, dropout's draws included; the rate is what lies
    there then. Not a byte is asked of the driver."""
    eager = Training(kind, optimizer)
    curve = [eager.step().item() for _ in range(6)]
    eager.lr.fill_(0.002)
    curve += [eager.step().item() for _ in range(2)]
    training = Training(kind, optimizer)
    for _ in range(3):
        training.step()
    key = hl.get_rng_state()
    graph, loss, asked = captured(training.step)
    assert not any(asked.values()), asked
    assert hl.get_rng_state() == key  # nothing was drawn yet
    assert graph.draws == (kind == "words")
    again = []
    for i in range(5):
        if i == 3:
            training.lr.fill_(0.002)
        graph.replay()
        again.append(loss.item())
    assert again == curve[3:]
    assert training.state() == eager.state()


def test_replayed_draws_go_on_where_the_streams_are():
    """Each replay draws what an eager call would draw in its place; a key of the caller's stays."""
    x = put(np.ones(500, "f4"))

    def draw() -> list[DeviceArray]:
        return [k.dropout(x), k.dropout(x, key=(9, 9)), k.normal(50, out=put_empty(50)),
                k.permutation(40, out=_core.cuda_empty((40,), np.dtype("i8"), 0))]  # fmt: skip

    def put_empty(size: int) -> DeviceArray:
        return _core.cuda_empty((size,), np.dtype("f4"), 0)

    draw()
    hl.seed(11)
    graph, results, _ = captured(draw)
    assert graph.draws == 3
    for seed in (11, 12):  # also another seed than the capture's
        hl.seed(seed)
        first = [get(r) for r in draw()]
        graph.replay()
        replayed = [get(r) for r in results]
        last = [get(r) for r in draw()]
        hl.seed(seed)
        wanted = [[get(r) for r in draw()] for _ in range(3)]
        for got, want in zip((first, replayed, last), wanted, strict=True):
            for a, b in zip(got, want, strict=True):
                np.testing.assert_array_equal(a, b)
        assert not np.array_equal(first[0], replayed[0])
        np.testing.assert_array_equal(first[1], replayed[1])
    hl.seed(3)
    begin = hl.get_rng_state()
    assert _core.CudaGraph.milliseconds([graph], 4) >= 0
    assert hl.get_rng_state() == (begin[0], begin[1] + 12)


def test_a_graph_keeps_its_memory():
    """What it writes is nobody else's until it is freed, though no array holds it."""
    gc.collect()
    hl.cuda.empty_cache()
    x = put(np.arange(1000, dtype="f4"))
    k.exp(k.add(x, 1.0))
    info = _core.cuda_info(0)
    assert info["graph_bytes"] == 0
    graph, result, _ = captured(lambda: k.mul(k.relu(k.add(x, 1.0)), 2.0))
    kept = _core.cuda_info(0)["graph_bytes"]
    assert kept >= 2 * 4096
    taken = [put(np.full(1000, 7, "f4")) for _ in range(8)]
    x.fill(3.0)
    graph.replay()
    np.testing.assert_array_equal(get(result), 8)
    for other in taken:
        np.testing.assert_array_equal(get(other), 7)
    del result
    graph.replay()  # also where nobody looks
    others = [put(np.full(1000, 5, "f4")) for _ in range(8)]
    graph.replay()
    for other in (*taken, *others):
        assert get(other)[0] in (5, 7)
    del graph
    assert _core.cuda_info(0)["graph_bytes"] == 0
    del taken, others, other
    hl.cuda.empty_cache()
    assert hl.cuda.memory_cached() == 0


def test_an_array_outlives_its_graph():
    x = put(np.ones(300, "f4"))
    graph, result, _ = captured(lambda: k.add(x, 1.0))
    graph.replay()
    hl.cuda.synchronize()
    before = hl.cuda.memory_cached()
    del graph
    np.testing.assert_array_equal(get(result), 2)
    del result
    assert hl.cuda.memory_cached() > before


def test_other_threads_allocate_for_themselves_during_a_capture():
    x = put(np.ones(300, "f4"))
    made = []
    graph = _core.CudaGraph(0)
    k.add(x, 1.0)
    graph.begin()
    thread = threading.Thread(target=lambda: made.append(_core.cuda_empty((64,), x.dtype, 0)))
    thread.start()
    thread.join()
    kept = _core.cuda_info(0)["graph_bytes"]
    result = k.add(x, 1.0)
    assert _core.cuda_info(0)["graph_bytes"] > kept == 0
    graph.end()
    graph.replay()
    np.testing.assert_array_equal(get(result), 2)


@pytest.mark.parametrize("what", ["read", "wait"])
def test_a_capture_refuses_what_waits(what):
    """A typed error; the graph is not made, and everything goes on."""
    x = put(np.ones(8, "f4"))
    graph = _core.CudaGraph(0)
    graph.begin()
    y = k.add(x, 1.0)
    with pytest.raises(hl.DeviceError, match="captur"):
        get(y) if what == "read" else hl.cuda.synchronize()
    if what == "wait":  # which ends the capture
        with pytest.raises(hl.DeviceError, match="cudaStreamEndCapture"):
            graph.end()
        with pytest.raises(RuntimeError, match="captured graphs"):
            graph.replay()
    else:
        with contextlib.suppress(hl.DeviceError):
            graph.end()
    assert _core.cuda_info(0)["graph_bytes"] == 0 or what == "read"
    del graph, y
    assert get(k.add(x, 1.0)).tolist() == [2] * 8


def test_graphs_are_begun_and_ended_once():
    graph = _core.CudaGraph(0)
    with pytest.raises(RuntimeError, match="end must follow begin"):
        graph.end()
    with pytest.raises(RuntimeError, match="captured graphs"):
        graph.replay()
    graph.begin()
    with pytest.raises(RuntimeError, match="once"):
        graph.begin()
    with pytest.raises(hl.DeviceError):
        _core.CudaGraph(0).begin()  # another one meanwhile
    graph.end()
    with pytest.raises(RuntimeError, match="once"):
        graph.begin()
    with pytest.raises(ValueError, match="graphs are expected"):
        _core.CudaGraph.milliseconds([], 3)
    with pytest.raises(hl.DeviceError, match="below"):
        _core.CudaGraph(99)
