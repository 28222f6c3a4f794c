"""Checkpoints: what is saved comes back; what is damaged or hostile is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import hotloop as hl
from hotloop.checkpoint import (
    CheckpointError,
    MissingCheckpointError,
    atomic,
    files,
    load,
    load_metadata,
    save,
)
from hotloop.tensor import Tensor

# ---- there and back -----------------------------------------------------------------------------


def same(left, right):
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        assert isinstance(left, Tensor)
        assert isinstance(right, Tensor)
        left, right = left.detach().numpy(), right.detach().numpy()
    assert type(left) is type(right)
    if isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert left.tobytes() == right.tobytes()
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right):
            same(a, b)
    else:
        assert left == right or (left != left and right != right)


@pytest.mark.parametrize(
    "tree",
    [
        {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.float64)},
        {"scalar": np.array(2.5), "empty": np.zeros((0, 3), np.int8)},
        {0: {"step": 3, "betas": (0.9, 0.999)}, "flag": True, "none": None, "text": "ä\n\0"},
        [1, -(2**70), 1.5, float("inf"), float("-inf"), float("nan"), [], {}, ()],
        {"a.b": np.ones(1), "a": {"b": np.zeros(2)}},
        {
            d: np.array([0, 1], d)
            for d in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u8", "?")
        },
        np.arange(3.0),
        {},
        None,
        7,
    ],
    ids=range(10),
)
def test_a_tree_comes_back_as_it_was(tmp_path, tree):
    save(tree, tmp_path / "a.safetensors")
    same(load(tmp_path / "a.safetensors"), tree)


def test_tensors_come_back_as_tensors(tmp_path):
    tree = {"w": hl.tensor([[1.0, 2.0]]), "n": np.arange(3)}
    save(tree, tmp_path / "a.safetensors")
    same(load(tmp_path / "a.safetensors"), tree)


def test_arrays_of_any_memory_order_come_back(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    tree = {
        "t": base.T,
        "flipped": base[::-1, ::2],
        "big": base.astype(">f4"),
        "f": np.asfortranarray(base),
    }
    save(tree, tmp_path / "a.safetensors")
    for name, array in load(tmp_path / "a.safetensors").items():
        np.testing.assert_array_equal(array, tree[name])
        assert array.flags.writeable


def test_loaded_arrays_are_our_own(tmp_path):
    save({"a": np.zeros(2), "b": np.zeros(2)}, tmp_path / "a.st")
    first = load(tmp_path / "a.st")
    first["a"] += 1
    assert not first["b"].any()
    assert not load(tmp_path / "a.st")["a"].any()


def test_model_and_optimizer_go_on_where_they_were(tmp_path):
    def start():
        hl.seed(1)
        model = hl.nn.Sequential(hl.nn.Linear(3, 4), hl.nn.Tanh(), hl.nn.Linear(4, 2))
        return model, hl.optim.AdamW(model.parameters(), lr=0.05)

    x = hl.from_numpy(np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32))

    def advance(model, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            (model(x) ** 2).mean().backward()
            optimizer.step()

    model, optimizer = start()
    advance(model, optimizer)
    path = tmp_path / "run.safetensors"
    save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)
    advance(model, optimizer)

    other, its = start()
    state = load(path)
    other.load_state_dict(state["model"])
    its.load_state_dict(state["optimizer"])
    assert state["epoch"] == 3
    advance(other, its)
    for a, b in zip(model.parameters(), other.parameters()):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


def test_modules_are_taken_by_their_state(tmp_path):
    model = hl.nn.Linear(2, 3)
    save(model, tmp_path / "a.st")
    same(dict(load(tmp_path / "a.st")), dict(model.state_dict()))


def test_where_tensors_are_loaded_to(tmp_path):
    save({"w": hl.ones(2)}, tmp_path / "a.st")
    for place in (None, "cpu", hl.device("cpu")):
        assert load(tmp_path / "a.st", map_location=place)["w"].device == "cpu"
    assert load(tmp_path / "a.st", "cpu")["w"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="device: "):
        load(tmp_path / "a.st", map_location="tpu")


def test_the_public_names():
    assert hl.save is save
    assert hl.load is load


def test_other_readers_read_ours_and_we_read_theirs(tmp_path):
    from safetensors.numpy import load_file, save_file

    tree = {"layer.w": np.arange(4, dtype=np.float32), "n": np.array([7])}
    save(tree, tmp_path / "ours.safetensors")
    theirs = load_file(tmp_path / "ours.safetensors")
    assert set(theirs) == set(tree)
    np.testing.assert_array_equal(theirs["layer.w"], tree["layer.w"])
    save_file(tree, tmp_path / "theirs.safetensors", metadata={"format": "np"})
    loaded = load(tmp_path / "theirs.safetensors")
    assert all(isinstance(value, Tensor) for value in loaded.values())
    np.testing.assert_array_equal(loaded["layer.w"].numpy(), tree["layer.w"])
    assert load_metadata(tmp_path / "theirs.safetensors") == {}


def test_the_same_contents_give_the_same_bytes(tmp_path):
    for name in ("a.st", "b.st"):
        save({"x": np.ones(3), "y": 2, "z": np.zeros(1)}, tmp_path / name, metadata={"k": "v"})
    assert (tmp_path / "a.st").read_bytes() == (tmp_path / "b.st").read_bytes()


def test_the_readable_copy(tmp_path):
    save(
        {"w": np.ones((2, 3), np.float32), "epoch": 3},
        tmp_path / "a.safetensors",
        metadata={"k": "v"},
    )
    copy = json.loads((tmp_path / "a.json").read_text())
    assert copy["tensors"] == {"w": {"dtype": "float32", "shape": [2, 3]}}
    assert copy["metadata"] == {"k": "v"}
    assert len(copy["sha256"]) == 64
    (tmp_path / "a.json").write_text("nonsense")
    load(tmp_path / "a.safetensors")  # never looks at it
    assert load_metadata(tmp_path / "a.safetensors") == {"k": "v"}


# ---- what save refuses --------------------------------------------------------------------------


class Opaque:
    pass


@pytest.mark.parametrize(
    ("tree", "kind", "text"),
    [
        ({"f": Opaque()}, TypeError, "Opaque at 'f'"),
        ({"f": {1, 2}}, TypeError, "set at 'f'"),
        ({(1, 2): 3}, TypeError, "keys must be str or int"),
        ({True: 3}, TypeError, "keys must be str or int"),
        ({"../../etc/x": np.ones(1)}, CheckpointError, "look like a path"),
        ({"a/b": np.ones(1)}, CheckpointError, "look like a path"),
        ({"a\0b": np.ones(1)}, CheckpointError, "printable"),
        ({"__metadata__": np.ones(1)}, CheckpointError, "__"),
        ({"n" * 600: np.ones(1)}, CheckpointError, "at most 512 bytes"),
        ({"c": np.ones(1, np.complex128)}, CheckpointError, "complex128"),
        ({"o": np.array([None])}, CheckpointError, "object"),
        ({"s": np.array(["x"])}, CheckpointError, "<U1"),
    ],
    ids=range(12),
)
def test_save_refuses_and_leaves_nothing(tmp_path, tree, kind, text):
    with pytest.raises(kind, match=r"save: .*") as caught:
        save(tree, tmp_path / "a.safetensors")
    assert text in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_save_refuses_a_list_that_contains_itself(tmp_path):
    endless = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="at most 50 deep"):
        save(endless, tmp_path / "a.st")


def test_save_refuses_the_name_of_the_readable_copy_and_odd_metadata(tmp_path):
    with pytest.raises(CheckpointError, match=r"\.json"):
        save({}, tmp_path / "a.json")
    with pytest.raises(TypeError, match="strings to strings"):
        save({}, tmp_path / "a.st", metadata={"epoch": 3})


def test_save_into_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing/a\.st'"):
        save({}, tmp_path / "missing" / "a.st")


# ---- what load refuses --------------------------------------------------------------------------


def container(header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def ours(**changes):
    record = {"format": 1, "metadata": {}, "tree": {"dict": []}, "sha256": "0" * 64, **changes}
    text = json.dumps({k: v for k, v in record.items() if v is not ...})
    return container({"__metadata__": {"hotloop": text}})


def tree(node):
    return ours(tree=node)


EIGHT = b"\0" * 8
BIG = 2**63 - 1
HOSTILE = {
    "empty file": b"",
    "seven bytes": b"\0" * 7,
    "length alone": (2).to_bytes(8, "little"),
    "length of zero": container(b"", b"{}", length=0),
    "length of one": container(b"{", b"}", length=1),
    "length beyond the file": container({}, length=3),
    "length of 2**63": container({}, length=2**63),
    "length of 2**64 - 1": container({}, length=2**64 - 1),
    "length of 33 MiB": container({}, length=33 << 20),
    "zip file": b"PK\3\4" + b"\0" * 60,
    "pickle": b"\x80\4\x95\x20\0\0\0\0\0\0\0" + b"cos\nsystem\n(S'true'\ntR." + b"\0" * 32,
    "no JSON": container(b"not JSON at all"),
    "JSON that ends early": container(b'{"a": '),
    "JSON with a tail": container(b"{} {}"),
    "a list": container(b"[]"),
    "a string": container(b'"header"'),
    "leading space": container(b" {}"),
    "byte order mark": container(b"\xef\xbb\xbf{}"),
    "UTF-16": container("{}".encode("utf-16")),
    "bad UTF-8": container(b'{"\xff\xfe": 1}'),
    "deep nesting": container(b'{"a":' + b"[" * 200_000),
    "NaN": container(b'{"a": NaN}'),
    "an integer of 5,000 digits": container(b'{"a": ' + b"9" * 5000 + b"}"),
    "duplicate tensor": container(
        b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},'
        b'"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
        EIGHT,
    ),
    "duplicate field": container(
        b'{"a":{"dtype":"U8","dtype":"F64","shape":[8],"data_offsets":[0,8]}}', EIGHT
    ),
    "metadata as a list": container({"__metadata__": []}),
    "metadata of numbers": container({"__metadata__": {"a": 1}}),
    "metadata of objects": container({"__metadata__": {"a": {}}}),
    "entry as a number": container({"a": 1}, EIGHT),
    "entry as null": container({"a": None}, EIGHT),
    "no dtype": container({"a": {"shape": [2], "data_offsets": [0, 8]}}, EIGHT),
    "no shape": container({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, EIGHT),
    "no offsets": container({"a": {"dtype": "F32", "shape": [2]}}, EIGHT),
    "a field too many": container({"a": entry(module="os")}, EIGHT),
    "unknown dtype": container({"a": entry("F33")}, EIGHT),
    "dtype of objects": container({"a": entry("O")}, EIGHT),
    "dtype in lower case": container({"a": entry("f32")}, EIGHT),
    "dtype as a list": container({"a": entry(["F32"])}, EIGHT),
    "dtype as a number": container({"a": entry(1)}, EIGHT),
    "wrong dtype": container({"a": entry("F64")}, EIGHT),
    "shape as a number": container({"a": {**entry(), "shape": 2}}, EIGHT),
    "shape of floats": container({"a": entry(shape=(2.0,))}, EIGHT),
    "shape of booleans": container({"a": entry(shape=(True, 2))}, EIGHT),
    "shape of strings": container({"a": entry(shape=("2",))}, EIGHT),
    "negative size": container({"a": entry(shape=(-2,))}, EIGHT),
    "two negative sizes": container({"a": entry(shape=(-1, -2))}, EIGHT),
    "size of 2**64": container({"a": entry(shape=(2**64,))}, EIGHT),
    "product that wraps to 0": container({"a": entry(shape=(2**31, 2**31, 4), offsets=(0, 0))}),
    "product that wraps to 4": container(
        {"a": entry("U8", (4194305, 4194305, 211106198978564), (0, 4))}, b"\0" * 4
    ),
    "huge sizes around a zero": container({"a": entry(shape=(0, BIG, BIG), offsets=(0, 0))}),
    "rank 33": container({"a": entry(shape=(1,) * 32 + (2,))}, EIGHT),
    "one offset": container({"a": entry(offsets=(8,))}, EIGHT),
    "three offsets": container({"a": entry(offsets=(0, 4, 8))}, EIGHT),
    "offsets as floats": container({"a": entry(offsets=(0.0, 8.0))}, EIGHT),
    "offsets as booleans": container({"a": entry("U8", (1,), (False, True))}, b"\0"),
    "negative offset": container({"a": entry(offsets=(-8, 0))}, EIGHT),
    "offsets reversed": container({"a": entry(offsets=(8, 0))}, EIGHT),
    "offset outside the file": container({"a": entry(offsets=(0, 16), shape=(4,))}, EIGHT),
    "offset of 2**63 - 1": container({"a": entry(offsets=(BIG - 8, BIG))}, EIGHT),
    "offset of 2**64": container({"a": entry(offsets=(2**64, 2**64 + 8))}, EIGHT),
    "shape smaller than the bytes": container({"a": entry(shape=(1,))}, EIGHT),
    "shape larger than the bytes": container({"a": entry(shape=(3,))}, EIGHT),
    "gap before": container({"a": entry("U8", (4,), (4, 8))}, EIGHT),
    "gap between": container(
        {"a": entry("U8", (2,), (0, 2)), "b": entry("U8", (4,), (4, 8))}, EIGHT
    ),
    "overlap": container({"a": entry("U8", (6,), (0, 6)), "b": entry("U8", (4,), (4, 8))}, EIGHT),
    "two names for one place": container({"a": entry(), "b": entry()}, EIGHT),
    "empty tensor inside another": container({"a": entry(), "b": entry("U8", (0,), (4, 4))}, EIGHT),
    "trailing garbage": container({"a": entry()}, EIGHT + b"garbage"),
    "data without tensors": container({}, EIGHT),
    "data cut short": container({"a": entry()}, EIGHT[:-1]),
    "path upwards": container({"../../etc/passwd": entry()}, EIGHT),
    "absolute path": container({"/etc/passwd": entry()}, EIGHT),
    "path of Windows": container({"..\\x": entry()}, EIGHT),
    "home": container({"~root": entry()}, EIGHT),
    "hidden file": container({".bashrc": entry()}, EIGHT),
    "NUL in a name": container({"a\0b": entry()}, EIGHT),
    "newline in a name": container({"a\nb": entry()}, EIGHT),
    "escape code in a name": container({"\x1b[2J": entry()}, EIGHT),
    "lone surrogate in a name": container(
        b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', EIGHT
    ),
    "empty name": container({"": entry()}, EIGHT),
    "name of 513 bytes": container({"n" * 513: entry()}, EIGHT),
    "100,001 tensors": container(
        {str(i): entry("U8", (0,), (0, 0)) for i in range(100_001)},
    ),
    "record: no JSON": container({"__metadata__": {"hotloop": "x"}}),
    "record: a list": container({"__metadata__": {"hotloop": "[]"}}),
    "record: lone surrogate": container(b'{"__metadata__":{"hotloop":"\\ud800"}}'),
    "record: a key missing": ours(tree=...),
    "record: a key too many": ours(code="import os"),
    "record: format of the future": ours(format=2),
    "record: format as text": ours(format="1" * 1000),
    "record: metadata of numbers": ours(metadata={"a": 1}),
    "record: metadata as a list": ours(metadata=[]),
    "record: wrong hash": ours(),
    "tree: unknown node": tree({"class": "os.system"}),
    "tree: two keys": tree({"value": 1, "float": "nan"}),
    "tree: a bare number": tree(1),
    "tree: a value of a list": tree({"value": []}),
    "tree: a float that is none": tree({"float": "1e9"}),
    "tree: a tensor that is not there": tree({"tensor": "a"}),
    "tree: an array that is unhashable": tree({"array": ["a"]}),
    "tree: a dict of a dict": tree({"dict": {"a": 1}}),
    "tree: an item of three": tree({"dict": [["a", {"value": 1}, 2]]}),
    "tree: a key of a list": tree({"dict": [[[], {"value": 1}]]}),
    "tree: duplicate key": tree({"dict": [["a", {"value": 1}], ["a", {"value": 2}]]}),
}


def test_there_are_many():
    assert len(HOSTILE) > 90


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError, match=r"load: .*hostile\.safetensors: .*; ") as caught:
        load(path)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.startswith("tree")])
def test_hostile_trees_are_refused_without_the_hash_too(tmp_path, name):
    (tmp_path / "a.st").write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError, match=r"node|key|item"):
        load(tmp_path / "a.st", verify=False)


def test_deep_trees_are_refused(tmp_path):
    node = {"value": 1}
    for _ in range(60):
        node = {"list": [node]}
    (tmp_path / "a.st").write_bytes(tree(node))
    with pytest.raises(CheckpointError, match="deep"):
        load(tmp_path / "a.st", verify=False)


def test_tensors_outside_the_tree_are_refused(tmp_path):
    text = json.dumps({"format": 1, "metadata": {}, "tree": {"dict": []}, "sha256": ""})
    raw = container({"__metadata__": {"hotloop": text}, "a": entry()}, EIGHT)
    (tmp_path / "a.st").write_bytes(raw)
    with pytest.raises(CheckpointError, match="every tensor must occur"):
        load(tmp_path / "a.st", verify=False)


def test_headers_of_hostile_files_give_no_metadata(tmp_path):
    (tmp_path / "a.st").write_bytes(HOSTILE["overlap"])
    with pytest.raises(CheckpointError, match="overlap"):
        load_metadata(tmp_path / "a.st")


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "a.st"
    save({"w": np.arange(5, dtype=np.float32), "n": 3}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load(path)


def test_every_flipped_bit_that_matters_is_noticed(tmp_path):
    path = tmp_path / "a.st"
    state = {"w": np.arange(5, dtype=np.float32), "n": 3}
    save(state, path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            found = load(path)
        except CheckpointError:
            continue
        if isinstance(found.get("w"), np.ndarray):  # white space became other white space
            same(found, state)
        else:  # our record lost its name: the file of a stranger
            assert "n" not in found
            np.testing.assert_array_equal(found["w"].numpy(), state["w"])


def test_a_changed_number_is_noticed_unless_told_otherwise(tmp_path):
    path = tmp_path / "a.st"
    save({"w": np.arange(5, dtype=np.float32)}, path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 64
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"SHA-256.*verify=False"):
        load(path)
    assert load(path, verify=False)["w"].shape == (5,)


def test_a_missing_file(tmp_path):
    for read in (load, load_metadata):
        with pytest.raises(
            MissingCheckpointError, match=r"missing\.st: the file must exist; "
        ) as caught:
            read(tmp_path / "missing.st")
        assert isinstance(caught.value, FileNotFoundError)
        assert isinstance(caught.value, CheckpointError)
        assert isinstance(caught.value, ValueError)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(CheckpointError, match="regular file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="regular file"):
        load(tmp_path / "pipe")  # and does not wait for a writer


# ---- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    path = tmp_path / "a.st"
    save({"n": 1}, path)
    before = sorted(tmp_path.iterdir())

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        save({"n": 2}, path)
    monkeypatch.undo()
    assert load(path) == {"n": 1}
    assert sorted(tmp_path.iterdir()) == before


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(atomic.os, "write", lambda fd, data: write(fd, data[:100]))
    save({"w": np.arange(1000)}, tmp_path / "a.st")
    monkeypatch.undo()
    np.testing.assert_array_equal(load(tmp_path / "a.st")["w"], np.arange(1000))


def test_links_are_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    save({"n": 1}, tmp_path / "real" / "a.st")
    (tmp_path / "link.st").symlink_to(tmp_path / "real" / "a.st")
    save({"n": 2}, tmp_path / "link.st")
    assert (tmp_path / "link.st").is_symlink()
    assert load(tmp_path / "real" / "a.st") == {"n": 2}


def test_old_temporaries_are_removed_and_young_ones_kept(tmp_path):
    old, young = tmp_path / ".a.st.1.00.tmp", tmp_path / ".a.st.2.00.tmp"
    foreign = tmp_path / ".b.st.1.00.tmp"
    for path in (old, young, foreign):
        path.write_bytes(b"")
    past = time.time() - 2 * atomic.STALE_SECONDS
    for path in (old, foreign):
        os.utime(path, (past, past))
    save({}, tmp_path / "a.st")
    assert not old.exists()
    assert young.exists()
    assert foreign.exists()


KILLED = """
import sys
import numpy as np
from hotloop.checkpoint import save
big = np.arange(1 << 13)
number = 0
while True:
    number += 1
    save({"n": number, "w": big + number}, sys.argv[1])
    print(number, flush=True)
"""


def test_kill_in_the_middle_leaves_a_whole_file_child(tmp_path):
    path = tmp_path / "a.st"
    for run in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
        ) as child:
            for _ in range(run + 2):
                child.stdout.readline()
            time.sleep(0.0007 * run)
            os.kill(child.pid, signal.SIGKILL)
        state = load(path)
        np.testing.assert_array_equal(state["w"], np.arange(1 << 13) + state["n"])


def test_saving_from_threads_leaves_one_of_the_files(tmp_path):
    import concurrent.futures

    path = tmp_path / "a.st"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: save({"n": n, "w": np.full(1000, n)}, path), range(16)))
    state = load(path)
    assert (state["w"] == state["n"]).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.st"]


def test_the_digest_covers_everything():
    arrays = {"a": np.zeros(2, np.float32)}
    record = {"format": 1, "metadata": {}, "tree": {"tensor": "a"}}
    digests = {
        files._digest(record, arrays),
        files._digest({**record, "metadata": {"k": "v"}}, arrays),
        files._digest({**record, "tree": {"array": "a"}}, arrays),
        files._digest(record, {"b": arrays["a"]}),
        files._digest(record, {"a": np.zeros(1, np.float64)}),
        files._digest(record, {"a": np.zeros((2, 1), np.float32)}),
        files._digest(record, {"a": np.ones(2, np.float32)}),
    }
    assert len(digests) == 7
