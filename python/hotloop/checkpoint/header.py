"""The checks of a safetensors header, all made before any memory is asked for.

The format's own reader accepts duplicate keys, path-like names, NUL in names and 100,000s of
entries; readers elsewhere multiplied shapes unchecked, compared offsets with nothing, or wrapped
them at a cast. No number is trusted before it was compared with the file's size.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from hotloop.checkpoint.errors import CheckpointError

__all__ = [
    "ITEM_BYTES",
    "PREFIX_BYTES",
    "Entry",
    "check_name",
    "header_length",
    "parse_header",
    "read_json",
]

PREFIX_BYTES = 8
MAX_HEADER_BYTES = 32 << 20
MAX_ENTRIES = 100_000
MAX_RANK = 32  # NumPy 1's limit; NumPy 2 has 64
MAX_NAME_BYTES = 512
MAX_INT = 2**63 - 1

ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}

REMEDY = "the file is damaged or was not written by hotloop; restore a copy or save it again"


@dataclass(frozen=True)
class Entry:
    """One tensor of the header: its dtype, shape and place among the data bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header_length(prefix: bytes, file_bytes: int) -> int:
    """The length of the header in bytes, from the first eight bytes of a file of that size."""
    if file_bytes < PREFIX_BYTES + 2 or len(prefix) != PREFIX_BYTES:
        _fail(f"a checkpoint must hold at least {PREFIX_BYTES + 2} bytes, got {file_bytes}")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        _fail(f"the header must have at most {MAX_HEADER_BYTES} bytes, got {length}")
    if length > file_bytes - PREFIX_BYTES:
        _fail(f"the header of {length} bytes must fit into the file, got {file_bytes} bytes")
    if length < 2:
        _fail(f"the header must be a JSON object, got {length} bytes")
    return length


def parse_header(header: bytes, data_bytes: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Checks a header against the number of data bytes behind it.

    Returns:
        The entries by name, in the file's order, and the metadata.

    Raises:
        CheckpointError: where any of the format's rules or our limits is broken.
    """
    fields = read_json(header)
    metadata = _check_metadata(fields.pop("__metadata__", {}))
    if len(fields) > MAX_ENTRIES:
        _fail(f"there must be at most {MAX_ENTRIES} tensors, got {len(fields)}")
    entries = {}
    for name, field in fields.items():
        problem = check_name(name)
        if problem:
            _fail(problem)
        entries[name] = _check_entry(name, field, data_bytes)
    _check_cover(entries, data_bytes)
    return entries, metadata


def check_name(name: str) -> str:
    """What is wrong with a tensor's name, or "". Names are no paths; let none look so."""
    if not name or not name.isprintable():
        return f"a tensor name must be printable and not empty, got {name[:80]!a}"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"a tensor name must have at most {MAX_NAME_BYTES} bytes, got {name[:80]!a}..."
    if "/" in name or "\\" in name or ".." in name or name[0] in ".~":
        return f"a tensor name must not look like a path, got {name[:80]!a}"
    if name.startswith("__"):
        return f'a tensor name must not begin with "__", got {name[:80]!a}'
    return ""


def read_json(header: bytes) -> dict[str, Any]:
    """A JSON object without duplicate keys, NaN or anything that Python alone accepts."""
    if header[:1] != b"{":
        _fail(f'the header must begin with "{{", got {header[:1]!r}')
    try:
        text = header.decode("utf-8")
        fields = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except CheckpointError:
        raise
    except RecursionError:
        _fail("the header must not be nested that deeply", from_none=True)
    except ValueError as error:  # bad UTF-8, bad JSON, an integer of thousands of digits
        _fail(f"the header must be valid JSON, got {str(error)[:120]}", from_none=True)
    if not isinstance(fields, dict):
        _fail("the header must be a JSON object")
    return fields


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                _fail(f"every key must occur once, got {key[:80]!a} twice")
            seen.add(key)
    return result


def _no_constant(text: str) -> NoReturn:
    _fail(f"the header must hold plain numbers, got {text}")


def _check_metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or any(type(v) is not str for v in metadata.values()):
        _fail("__metadata__ must map strings to strings")
    return metadata


def _check_entry(name: str, field: Any, data_bytes: int) -> Entry:
    if not isinstance(field, dict) or set(field) != {"dtype", "shape", "data_offsets"}:
        _fail(f'tensor "{name}" must have dtype, shape and data_offsets and nothing else')
    dtype, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    if type(dtype) is not str or dtype not in ITEM_BYTES:
        known = " ".join(ITEM_BYTES)
        _fail(f'tensor "{name}": dtype must be one of {known}, got {ascii(dtype)[:40]}')
    if type(shape) is not list or len(shape) > MAX_RANK or not all(map(_is_size, shape)):
        _fail(f'tensor "{name}": shape must be at most {MAX_RANK} sizes, got {str(shape)[:80]}')
    if type(offsets) is not list or len(offsets) != 2 or not all(map(_is_size, offsets)):
        _fail(f'tensor "{name}": data_offsets must be two offsets, got {str(offsets)[:80]}')
    begin, end = offsets
    if not begin <= end <= data_bytes:
        _fail(f'tensor "{name}": offsets must lie in the file\'s {data_bytes} bytes, got {offsets}')
    wanted = ITEM_BYTES[dtype]
    for size in shape:  # Python's integers do not wrap; rank and sizes are bounded
        wanted *= size
    if wanted != end - begin:
        _fail(
            f'tensor "{name}": {dtype} of shape {tuple(shape)} must have {wanted} bytes, '
            f"got {end - begin}"
        )
    # (0, 2**62, 2**62) has no bytes, yet its strides leave 63 bits.
    bound = ITEM_BYTES[dtype]
    for size in shape:
        bound *= max(size, 1)
    if bound > MAX_INT:
        _fail(f'tensor "{name}": the sizes\' product must stay below 2**63, got {tuple(shape)}')
    return Entry(dtype, tuple(shape), begin, end)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT  # bool is not a size


def _check_cover(entries: dict[str, Entry], data_bytes: int) -> None:
    """The tensors must lie one behind the other and fill the data exactly."""
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            what = "overlap no other" if entry.begin < position else "leave no gap"
            _fail(f'tensor "{name}" must {what}: expected offset {position}, got {entry.begin}')
        position = entry.end
    if position != data_bytes:
        _fail(f"the tensors must fill the file's {data_bytes} data bytes, got {position}")


def _fail(what: str, *, from_none: bool = False) -> NoReturn:
    error = CheckpointError(f"{what}; {REMEDY}")
    if from_none:
        raise error from None
    raise error
