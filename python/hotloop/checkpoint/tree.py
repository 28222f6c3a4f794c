"""Nested dicts, lists and scalars with arrays as leaves: flattened for the file and built again.

The structure is written as JSON with one tag per node, so that integer keys, tuples, None and
non-finite numbers come back as what they were. Only these kinds exist; nothing is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np

from hotloop.checkpoint.errors import CheckpointError
from hotloop.checkpoint.header import REMEDY, check_name

__all__ = ["Node", "flatten", "rebuild"]

Node = dict[str, Any]
MAX_DEPTH = 50


def flatten(value: Any) -> tuple[Node, dict[str, np.ndarray[Any, Any]]]:
    """Splits a tree into its structure and its arrays by name (a flat dict keeps its own names)."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    return _flatten(value, "", arrays, 0), arrays


def _flatten(value: Any, path: str, arrays: dict[str, np.ndarray[Any, Any]], depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise CheckpointError(
            f"save: the tree must be at most {MAX_DEPTH} deep, got a deeper one at {path!r}; "
            "flatten it, or look for a list that contains itself"
        )
    if value is None or type(value) in (bool, int, str):
        return {"value": value}
    if isinstance(value, float):
        number = float(value)
        return {"value": number} if np.isfinite(number) else {"float": repr(number)}
    if isinstance(value, np.ndarray):
        return {"array": _add(value, path, arrays)}
    if isinstance(value, np.generic):
        return _flatten(value.item(), path, arrays, depth)
    if isinstance(value, Mapping):
        items = []
        for key, item in value.items():
            if type(key) not in (str, int):
                raise TypeError(
                    f"save: keys must be str or int, got {key!r} at {path or 'the top'!r}; "
                    "use optimizer.state_dict(), not optimizer.state"
                )
            items.append([key, _flatten(item, _join(path, key), arrays, depth + 1)])
        return {"dict": items}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(v, _join(path, i), arrays, depth + 1) for i, v in enumerate(value)]}
    if hasattr(value, "detach"):
        return {"tensor": _add(np.asarray(value.detach().numpy()), path, arrays)}
    raise TypeError(
        "save: values must be tensors, arrays, numbers, strings, None or dicts and lists of them, "
        f"got {type(value).__name__} at {path or 'the top'!r}; pass its state_dict() instead"
    )


def _join(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)


def _add(array: np.ndarray[Any, Any], path: str, arrays: dict[str, np.ndarray[Any, Any]]) -> str:
    name = path or "value"
    problem = check_name(name)
    if problem:
        raise CheckpointError(f"save: {problem}; rename the key")
    while name in arrays:  # {"a.b": x, "a": {"b": y}}
        name += "~"
    arrays[name] = array
    return name


def rebuild(
    node: Any, arrays: Mapping[str, np.ndarray[Any, Any]], as_tensor: Callable[[Any], Any]
) -> Any:
    """The inverse of `flatten`, for a node that may be hostile."""
    used: set[str] = set()
    value = _rebuild(node, arrays, as_tensor, used, 0)
    if used != set(arrays):
        _fail(f"every tensor must occur in the tree, got {sorted(set(arrays) - used)[:3]} besides")
    return value


def _rebuild(
    node: Any,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    as_tensor: Callable[[Any], Any],
    used: set[str],
    depth: int,
) -> Any:
    if depth > MAX_DEPTH:
        _fail(f"the tree must be at most {MAX_DEPTH} deep")
    if type(node) is not dict or len(node) != 1:
        _fail(f"a node must be an object of one key, got {str(node)[:80]}")
    ((kind, body),) = node.items()
    if kind == "value" and (body is None or type(body) in (bool, int, float, str)):
        return body
    if kind == "float" and body in ("nan", "inf", "-inf"):
        return float(body)
    if kind in ("array", "tensor") and type(body) is str and body in arrays and body not in used:
        used.add(body)
        return arrays[body] if kind == "array" else as_tensor(arrays[body])
    if kind in ("list", "tuple") and type(body) is list:
        items = [_rebuild(item, arrays, as_tensor, used, depth + 1) for item in body]
        return items if kind == "list" else tuple(items)
    if kind == "dict" and type(body) is list:
        result: dict[str | int, Any] = {}
        for item in body:
            if type(item) is not list or len(item) != 2 or type(item[0]) not in (str, int):
                _fail(f"an item of a dict must be a key and a node, got {str(item)[:80]}")
            if item[0] in result:
                _fail(f"every key must occur once, got {item[0]!r} twice")
            result[item[0]] = _rebuild(item[1], arrays, as_tensor, used, depth + 1)
        return result
    _fail(f"a node must be of a known kind, got {str(node)[:80]}")


def _fail(what: str) -> NoReturn:
    raise CheckpointError(f"{what}; {REMEDY}")
