"""fit, evaluate, predict: right averages, right modes, and nothing left behind when they fail."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import hotloop as hl
from hotloop import nn
from hotloop.autograd import is_grad_enabled
from hotloop.data import DataLoader, TensorDataset
from hotloop.metrics import Accuracy, ConfusionMatrix
from hotloop.train import History, evaluate, fit, predict

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)


def network(seed=0, dropout=0.0):
    hl.seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2))


def train(model, data=(X, Y), **options):
    options = {"loss": nn.CrossEntropyLoss(), "progress": False, **options}
    optimizer = options.pop("optimizer", None) or hl.optim.AdamW(model.parameters(), lr=0.02)
    return fit(model, data, optimizer=optimizer, **options)


def weights(model):
    return [p.detach().numpy().copy() for p in model.parameters()]


# ---- fit ----------------------------------------------------------------------------------------


def test_it_learns():
    model = network()
    history = train(model, epochs=20, validation=(X, Y), metrics=["accuracy"])
    assert isinstance(history, History)
    assert len(history) == 20
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert history[-1]["accuracy"] > 0.9
    assert history[-1]["val_accuracy"] > 0.9
    assert set(history[-1]) == {
        "epoch", "samples", "seconds", "samples_per_second",
        "loss", "accuracy", "val_loss", "val_accuracy",
    }  # fmt: skip
    assert [record["epoch"] for record in history.epochs] == list(range(1, 21))


def test_averages_weigh_samples_not_batches():
    model = network()
    still = hl.optim.SGD(model.parameters(), lr=0.0)
    data = [(X[:32], Y[:32]), (X[32:48], Y[32:48]), (X[48:], Y[48:])]
    history = train(model, data, optimizer=still, metrics=["accuracy"])
    whole = evaluate(model, [(X, Y)], loss=nn.CrossEntropyLoss(), metrics=["accuracy"])
    parts = evaluate(model, data, loss=nn.CrossEntropyLoss(), metrics=["accuracy"])
    for found in (history[-1], parts):
        assert found["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert found["accuracy"] == whole["accuracy"]
    total = evaluate(model, data, loss=nn.CrossEntropyLoss(reduction="sum"))
    assert total["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert history[-1]["samples"] == 50


def test_fit_is_the_explicit_loop():
    left, right = network(), network()
    loader = DataLoader(TensorDataset(X, Y), 16, shuffle=True, generator=7)
    train(left, loader, epochs=3)
    loader.epoch = 0
    optimizer = hl.optim.AdamW(right.parameters(), lr=0.02)
    loss = nn.CrossEntropyLoss()
    for _ in range(3):
        for x, y in loader:
            optimizer.zero_grad()
            loss(right(x), y).backward()
            optimizer.step()
    for a, b in zip(weights(left), weights(right)):
        np.testing.assert_array_equal(a, b)


def test_the_same_seed_gives_the_same_weights(threads):
    def run():
        model = network(3, dropout=0.3)
        train(model, epochs=2)
        return weights(model)

    for a, b in zip(run(), run()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["pair", "tensors", "dataset", "loader", "list", "iterable"])
def test_data_of_every_kind(kind):
    class Endless:
        def __iter__(self):
            return iter([(X, Y)])

    data = {
        "pair": (X, Y),
        "tensors": (hl.from_numpy(X), hl.from_numpy(Y)),
        "dataset": TensorDataset(X, Y),
        "loader": DataLoader(TensorDataset(X, Y), 50),
        "list": [(X, Y)],
        "iterable": Endless(),
    }[kind]
    model = network()
    assert train(model, data, epochs=2, batch_size=50)[-1]["samples"] == 50
    assert evaluate(model, data)["accuracy"] == evaluate(model, (X, Y))["accuracy"]


def test_zero_epochs():
    model = network()
    before = weights(model)
    assert len(train(model, epochs=0)) == 0
    for a, b in zip(before, weights(model)):
        np.testing.assert_array_equal(a, b)


# ---- modes --------------------------------------------------------------------------------------


def test_modes_are_given_back():
    model = network(dropout=0.5)
    model.eval()
    model[2].train()
    seen = []
    hook = model[2].forward

    def spy(x):
        seen.append((model[0].training, model[2].training, is_grad_enabled()))
        return hook(x)

    model[2].forward = spy
    train(model, [(X, Y)], validation=[(X, Y)])
    assert seen == [(True, True, True), (False, False, False)]
    predict(model, X)
    assert seen[2:] == [(False, False, False)]
    assert (model.training, model[0].training, model[2].training) == (False, False, True)
    with pytest.raises(ZeroDivisionError):
        train(model, [(X, Y)], loss=lambda output, y: 1 / 0)
    assert (model.training, model[0].training, model[2].training) == (False, False, True)
    assert is_grad_enabled()


def test_evaluate_changes_nothing():
    model = network(dropout=0.5)
    before = weights(model)
    first = evaluate(model, (X, Y), loss=nn.CrossEntropyLoss(), batch_size=7)
    assert evaluate(model, (X, Y), loss=nn.CrossEntropyLoss(), batch_size=7) == first
    assert all(p.grad is None for p in model.parameters())
    for a, b in zip(before, weights(model)):
        np.testing.assert_array_equal(a, b)


def test_evaluate_measures_what_is_asked_for():
    model = network()
    assert set(evaluate(model, (X, Y))) == {"accuracy"}
    assert set(evaluate(model, (X, Y), loss=nn.CrossEntropyLoss())) == {"loss"}
    assert set(evaluate(model, (X, X[:, :2]), loss=nn.MSELoss())) == {"loss"}
    assert evaluate(model, (X, Y), metrics=[]) == {}


def test_predict_packs_the_weights_and_forgets_them():
    hl.seed(0)
    model = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 3, bias=False))
    first = model[0]
    x = np.random.default_rng(0).standard_normal((30, 20), np.float32)
    used = []

    def batches():
        for start in range(0, 30, 10):
            used.append(first._pack is not None and first._pack.stands_for(first.weight))
            yield x[start : start + 10]
            if start == 10:  # a change in between is seen
                with hl.no_grad():
                    first.weight.mul_(2.0)

    got = predict(model, batches()).numpy()
    assert used == [True, True, False]
    assert first._pack is None
    with hl.no_grad():
        changed = model(hl.from_numpy(x)).numpy()
        first.weight.mul_(0.5)
        before = model(hl.from_numpy(x)).numpy()
    np.testing.assert_allclose(got[:20], before[:20], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[20:], changed[20:], rtol=1e-5, atol=1e-5)


def test_predict():
    model = network(dropout=0.5)
    whole = predict(model, X)
    assert whole.shape == (50, 2)
    assert not whole.requires_grad
    for data in (hl.from_numpy(X), DataLoader(TensorDataset(X, Y), 50), [(X, Y)], [X[:20], X[20:]]):
        np.testing.assert_allclose(
            predict(model, data).numpy(), whole.numpy(), rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(
        predict(model, X, batch_size=7).numpy(), whole.numpy(), rtol=1e-5, atol=1e-6
    )


# ---- callbacks, metrics, progress ---------------------------------------------------------------


def test_callbacks_get_dicts():
    events = []
    train(
        network(),
        epochs=2,
        batch_size=20,
        validation=(X, Y),
        metrics=[Accuracy(), ConfusionMatrix(2)],
        callbacks=[events.append],
    )
    assert [e["event"] for e in events] == ["batch", "batch", "batch", "epoch"] * 2
    assert [e["batch"] for e in events[:3]] == [1, 2, 3]
    assert [e["samples"] for e in events[:3]] == [20, 40, 50]
    assert all(e["batches"] == 3 and e["epochs"] == 2 for e in events)
    assert "val_loss" not in events[4]
    assert events[3]["val_confusion_matrix"].sum() == 50
    assert events[3]["samples_per_second"] > 0


def test_a_callback_that_returns_true_ends_the_training():
    model = network()
    assert len(train(model, epochs=9, callbacks=[lambda e: e["event"] == "epoch"])) == 1
    steps = []
    history = train(
        model, epochs=9, batch_size=10, callbacks=[lambda e: steps.append(e) or e["batch"] == 2]
    )
    assert len(history) == 1
    assert history[-1]["samples"] == 20
    assert len(train(model, epochs=2, callbacks=[lambda e: 1])) == 2  # only True itself


def test_validation_counts_apart():
    metric = Accuracy()
    train(network(), metrics=[metric], validation=(X, Y))
    assert metric.samples == 50


@pytest.mark.parametrize("tqdm", [True, False])
def test_progress_goes_to_stderr(capsys, monkeypatch, tqdm):
    if tqdm:
        pytest.importorskip("tqdm")
    else:
        real = builtins.__import__

        def without(name, *args, **options):
            if name.startswith("tqdm"):
                raise ImportError(name)
            return real(name, *args, **options)

        monkeypatch.setattr(builtins, "__import__", without)
    train(network(), epochs=2, progress="rows", metrics=["accuracy"], validation=(X, Y))
    captured = capsys.readouterr()
    assert captured.out == ""
    for word in ("epoch 1/2", "epoch 2/2", "loss", "val_accuracy", "rows/s"):
        assert word in captured.err


def test_no_progress_is_silent(capsys):
    train(network())
    assert capsys.readouterr() == ("", "")


def test_history_names_its_columns():
    history = train(network(), epochs=2)
    assert "loss" in history
    assert "accuracy" not in history
    with pytest.raises(KeyError, match="no column 'accuracy'; there are epoch, loss"):
        history["accuracy"]
    assert "2 epochs" in repr(history)


# ---- bad input ----------------------------------------------------------------------------------


EMPTY = (X[:0], Y[:0])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], "at least one batch"),
        (EMPTY, "at least one batch, got 0 samples"),
        ([EMPTY], r"at least one sample .* got shape \(0, 4\) at batch 0"),
        ([(X, Y), EMPTY], "at batch 1"),
        (DataLoader(TensorDataset(X, Y), 64, drop_last=True), "drop_last"),
        ([X], "a batch must be a pair"),
        ([(X, Y, Y)], "a batch must be a pair"),
        ([(X, Y[:5])], r"as many rows, got \(50, 4\) and \(5,\)"),
        ([(np.float32(3), np.int64(0))], "at least one sample"),
    ],
)
def test_data_that_will_not_do(data, text):
    model = network()
    with pytest.raises(ValueError, match=f"fit: .*{text}"):
        train(model, data)
    with pytest.raises(ValueError, match=f"evaluate: .*{text}"):
        evaluate(model, data)


def test_data_that_is_no_data():
    for call in (train, evaluate):
        with pytest.raises(TypeError, match="data must be a DataLoader"):
            call(network(), 3)
    for data in (X[:0], [], [X[:0]]):
        with pytest.raises(ValueError, match=r"predict: .*at least one"):
            predict(network(), data)


def test_a_used_up_generator_is_noticed():
    with pytest.raises(ValueError, match="used up"):
        train(network(), iter([(X, Y)]), epochs=2)


@pytest.mark.parametrize("epochs", [-1, 1.5, True])
def test_epochs_that_will_not_do(epochs):
    with pytest.raises(ValueError, match="fit: epochs must be a whole number"):
        train(network(), epochs=epochs)


def test_a_loss_of_many_numbers():
    with pytest.raises(ValueError, match=r"one number, got shape \(32,\)"):
        train(network(), loss=nn.CrossEntropyLoss(reduction="none"))


def test_a_loss_that_diverges_leaves_the_weights():
    model = network()
    before = weights(model)
    with pytest.raises(FloatingPointError, match="got nan at epoch 1, batch 1"):
        train(model, [(X * np.float32(np.nan), Y)])
    for a, b in zip(before, weights(model)):
        np.testing.assert_array_equal(a, b)


def test_metrics_that_will_not_do():
    with pytest.raises(ValueError, match=r"one of accuracy, .* got 'auc'"):
        train(network(), metrics=["auc"])
    with pytest.raises(ValueError, match="different names"):
        train(network(), metrics=["accuracy", Accuracy()])


# ---- Ctrl-C -------------------------------------------------------------------------------------


@pytest.fixture
def default_interrupt():
    """SIGINT as in a fresh process; whoever started the tests may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_waits_for_the_end_of_a_step(default_interrupt):
    model = network()
    optimizer = hl.optim.SGD([{"params": p} for p in model.parameters()], lr=0.1)
    step, finished = optimizer.step, []

    def slow_step():
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
        step()
        finished.append(True)

    optimizer.step = slow_step
    model.eval()
    with pytest.raises(KeyboardInterrupt):
        train(model, optimizer=optimizer, epochs=5)
    assert finished == [True]
    assert not model.training
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_outside_of_a_step_is_at_once(default_interrupt):
    def interrupt(info):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100_000):
            pass
        raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        train(network(), callbacks=[interrupt])


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ignored = []
        train(
            network(),
            epochs=1,
            callbacks=[lambda e: ignored.append(os.kill(os.getpid(), signal.SIGINT))],
        )
        assert ignored
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_training_works_in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(train(network())))
    thread.start()
    thread.join()
    assert len(found) == 1


INTERRUPTED = """
import os, signal, sys
import numpy as np
import hotloop as hl
signal.signal(signal.SIGINT, signal.default_int_handler)
model = hl.nn.Sequential(hl.nn.Linear(4, 8), hl.nn.Linear(8, 2))
optimizer = hl.optim.SGD([{"params": p} for p in model.parameters()], lr=0.0, weight_decay=0.0)
x, y = np.ones((8, 4), np.float32), np.zeros(8, np.int64)
try:
    print("ready", flush=True)
    hl.train.fit(model, [(x, y)], loss=hl.nn.CrossEntropyLoss(), optimizer=optimizer,
                 epochs=10**9, progress=False)
except KeyboardInterrupt:
    hl.save(model.state_dict(), sys.argv[1])
    print("saved", flush=True)
"""


def test_interrupt_then_save_child(tmp_path):
    path = tmp_path / "a.safetensors"
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "saved\n"
        except BaseException:
            child.kill()
            raise
    assert child.returncode == 0
    assert len(hl.load(path)) == 4


def test_fit_names_what_a_loss_and_an_optimizer_are():
    model, data = nn.Linear(2, 1), (np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))
    optimizer = hl.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"fit: loss must be .*, got 'mse'"):
        fit(model, data, loss="mse", optimizer=optimizer)
    with pytest.raises(TypeError, match=r"fit: optimizer must be .*, got 'adam'"):
        fit(model, data, loss=nn.MSELoss(), optimizer="adam")
