"""`save` and `load`: safetensors files with a hash, and a readable copy beside."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hotloop.checkpoint.atomic import replace_file
from hotloop.checkpoint.errors import CheckpointError, MissingCheckpointError
from hotloop.checkpoint.header import (
    PREFIX_BYTES,
    REMEDY,
    header_length,
    parse_header,
    read_json,
)
from hotloop.checkpoint.tree import flatten, rebuild

if TYPE_CHECKING:
    from hotloop.device import Device
    from hotloop.tensor import Tensor

__all__ = ["load", "load_metadata", "save"]

FORMAT = 1
KEY = "hotloop"  # our one entry in the file's metadata
Arrays = Mapping[str, np.ndarray[Any, Any]]


def save(
    obj: Any, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Saves tensors, and dicts and lists of them, numbers, strings and None, to a safetensors file.

    The file is replaced in one step: a kill or a full disk leaves the old one intact. Beside it
    lies a JSON copy of the names, shapes and plain values, for people to read; `load` ignores it.

    Args:
        obj: a `state_dict()`, a nested dict such as `{"model": model.state_dict(), "optimizer":
            optimizer.state_dict(), "epoch": 3}`, or a module or optimizer (its state is taken).
        path: where to; any ending but ".json", customarily ".safetensors".
        metadata: strings to keep along; `load_metadata` returns them.

    Raises:
        TypeError: a value that is no tensor, array, number, string, None, dict or list.
        CheckpointError: a name that looks like a path, a dtype the format lacks, a ".json" path.
        OSError: the file cannot be written.
    """
    from safetensors.numpy import save as serialize

    target = Path(path)
    if target.suffix == ".json":
        raise CheckpointError(
            f'save: the path must not end in ".json", got {str(target)!r}; the readable copy takes '
            'that name, use ".safetensors"'
        )
    notes = dict(metadata or {})
    if any(type(k) is not str or type(v) is not str for k, v in notes.items()):
        raise TypeError("save: metadata must map strings to strings; use json.dumps for the rest")
    if hasattr(obj, "state_dict"):
        obj = obj.state_dict()
    tree, arrays = flatten(obj)
    arrays = {name: _plain(name, array) for name, array in arrays.items()}
    record = {"format": FORMAT, "metadata": notes, "tree": tree}
    record["sha256"] = _digest(record, arrays)
    text = json.dumps(record, allow_nan=False, separators=(",", ":"))
    replace_file(target, serialize(arrays, {KEY: text}))
    record["tensors"] = {
        name: {"dtype": array.dtype.name, "shape": array.shape} for name, array in arrays.items()
    }
    copy = json.dumps(record, indent=1, sort_keys=True)
    replace_file(target.with_suffix(".json"), (copy + "\n").encode())


def load(
    path: str | os.PathLike[str], map_location: str | Device | None = None, *, verify: bool = True
) -> Any:
    """Loads what `save` wrote: the same tree, with `hl.Tensor` where there was one.

    Safetensors files of others load as a flat dict of tensors. Nothing in a file is ever executed,
    and its header is checked against the file before memory is asked for.

    Args:
        path: the file.
        map_location: the device of the tensors, "cuda" for example; None: the CPU, whatever they
            were saved from.
        verify: compare the SHA-256 that `save` wrote with the contents.

    Raises:
        MissingCheckpointError: there is no such file (also a FileNotFoundError).
        CheckpointError: the file is truncated, damaged or hostile.
        DeviceError: there is no such device here.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialize

    from hotloop.creation import from_numpy
    from hotloop.device import Device

    device = Device(map_location or "cpu")

    def placed(array: np.ndarray[Any, Any]) -> Tensor:
        return from_numpy(array).to(device)

    try:
        blob, record = _read(Path(path), whole=True)
        try:
            arrays = {name: np.array(array) for name, array in deserialize(blob).items()}
        except (SafetensorError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"the file must be valid safetensors, got {error}; {REMEDY}"
            ) from None
        if record is None:
            return {name: placed(array) for name, array in arrays.items()}
        if verify and record["sha256"] != _digest(record, arrays):
            raise CheckpointError(
                "the contents must have the SHA-256 in the header, got another; "
                "the file was damaged or edited: restore a copy, or pass verify=False to take it"
            )
        return rebuild(record["tree"], arrays, placed)
    except CheckpointError as error:
        raise _with_path(error, path) from error.__cause__


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings that were given to `save`; of the file only the header is read.

    Raises:
        MissingCheckpointError: there is no such file.
        CheckpointError: its header is damaged or hostile.
    """
    try:
        _, record = _read(Path(path), whole=False)
    except CheckpointError as error:
        raise _with_path(error, path) from error.__cause__
    return {} if record is None else dict(record["metadata"])


def _with_path(error: CheckpointError, path: str | os.PathLike[str]) -> CheckpointError:
    return type(error)(f"load: {os.fspath(path)}: {error}")


def _read(path: Path, *, whole: bool) -> tuple[bytes, dict[str, Any] | None]:
    """The file's bytes (or its header's) and our record in it, all checked; None if of others."""
    try:
        # O_NONBLOCK: opening a pipe must not wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise MissingCheckpointError(
            "the file must exist; check the path, or save a checkpoint first"
        ) from None
    except OSError as error:
        raise CheckpointError(f"the file must be readable, got {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise CheckpointError("the path must name a regular file, got another kind; check it")
    with os.fdopen(descriptor, "rb") as file:
        prefix = file.read(PREFIX_BYTES)
        header = file.read(header_length(prefix, status.st_size))
        _, metadata = parse_header(header, status.st_size - PREFIX_BYTES - len(header))
        record = _check_record(metadata[KEY]) if KEY in metadata else None
        blob = prefix + header + (file.read() if whole else b"")
        if whole and len(blob) != status.st_size:
            raise CheckpointError(f"the file must not change while it is read; {REMEDY}")
    return blob, record


def _check_record(text: str) -> dict[str, Any]:
    record = read_json(text.encode("utf-8", "replace"))
    if set(record) != {"format", "metadata", "tree", "sha256"}:
        raise CheckpointError(
            f"the record must have its four keys, got {sorted(record)[:8]}; {REMEDY}"
        )
    if record["format"] != FORMAT:
        raise CheckpointError(
            f"the format must be {FORMAT}, got {str(record['format'])[:20]}; update hotloop"
        )
    notes = record["metadata"]
    if type(notes) is not dict or any(type(v) is not str for v in notes.values()):
        raise CheckpointError(f"the metadata must map strings to strings; {REMEDY}")
    return record


def _digest(record: Mapping[str, Any], arrays: Arrays) -> str:
    """SHA-256 over structure, metadata, and every array's name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    head = [record["format"], record["metadata"], record["tree"]]
    digest.update(json.dumps(head, sort_keys=True, allow_nan=False).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(array.data)
    return digest.hexdigest()


def _plain(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """C order and little-endian, of a dtype that the format has."""
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise CheckpointError(
            f'save: tensor "{name}": the dtype must be float, integer or bool of up to 64 bits, '
            f"got {array.dtype}; convert it with astype"
        )
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
