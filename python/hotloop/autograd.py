"""The tape: what an operation leaves behind, and the walk back over it.

A `Node` is one recorded operation: where its inputs came from, the arrays it saved, and the
function that turns the gradient of its output into those of its inputs. Time is one counter: nodes
are numbered by it, and a write into a tensor stamps the tensor's version cell with it. So the walk
back visits nodes in falling order of their numbers, and a saved array was overwritten exactly when
its cell is younger than the node.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from . import kernels
from ._core import DTypeError, ShapeError
from .device_array import DeviceArray, beside

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = ["enable_grad", "is_grad_enabled", "no_grad", "set_grad_enabled"]

Array = np.ndarray[Any, Any]
Backward = Callable[["Node", Array], tuple[Array | None, ...]]
P = ParamSpec("P")
R = TypeVar("R")

_clock = itertools.count(1)
_VIEWED = (np.ndarray, DeviceArray)  # what a view's base is


class _Mode(threading.local):
    enabled = True


_mode = _Mode()


class Value:
    """What the tape knows of a tensor; `Tensor` adds the operations."""

    __slots__ = ("__weakref__", "_data", "_grad", "_needs", "_node", "_version")
    _data: Array
    _grad: Tensor | None
    _needs: bool  # requires_grad
    _node: Node | None  # None: a leaf
    _version: list[int]  # one cell, shared by all views: the time of the last write


class Node:
    """One recorded operation. `inputs` holds for each input its node, the leaf itself, or None
    where no gradient is wanted; it is None once the node has been freed."""

    __slots__ = ("backward", "cells", "inputs", "saved", "seq")
    backward: Backward
    cells: tuple[list[int], ...]
    inputs: tuple[Node | Tensor | None, ...]
    saved: tuple[Any, ...]
    seq: int

    @property
    def name(self) -> str:
        return self.backward.__name__.strip("_").removesuffix("_backward")


_new = object.__new__
_tensor_type: type[Tensor]


def use_tensor_type(tensor_type: type[Tensor]) -> None:
    """Says what `wrap` makes; called once, by tensor.py."""
    global _tensor_type
    _tensor_type = tensor_type


def wrap(data: Array) -> Tensor:
    """A leaf around an array, without any check."""
    tensor = _new(_tensor_type)
    tensor._data = data
    tensor._grad = None
    tensor._needs = False
    tensor._node = None
    tensor._version = [0]
    return tensor


def recording(*inputs: Value) -> bool:
    """Whether an operation on these inputs has to be recorded."""
    for tensor in inputs:
        if tensor._needs:
            return _mode.enabled
    return False


def record(
    data: Array,
    backward: Backward,
    inputs: tuple[Tensor, ...],
    saved: tuple[Any, ...] = (),
    guard: tuple[Tensor, ...] = (),
    guard_output: bool = False,
) -> Tensor:
    """The output tensor of an operation, with its node.

    Args:
        data: the result.
        backward: `backward(node, dy)` gives the gradient for each input; those whose
            `node.inputs` entry is None may be None.
        inputs: the differentiable inputs.
        saved: what backward reads from `node.saved`.
        guard: the tensors whose arrays are in `saved` (writing into them then raises at backward).
        guard_output: whether the result itself is in `saved`.
    """
    node = _new(Node)
    node.seq = next(_clock)
    node.backward = backward
    node.inputs = tuple([(t._node or t) if t._needs else None for t in inputs])
    node.saved = saved
    out = _new(_tensor_type)
    out._data = data
    out._grad = None
    out._needs = True
    out._node = node
    version = out._version = [0]
    if guard_output:
        node.cells = (version, *[t._version for t in guard]) if guard else (version,)
    else:
        node.cells = tuple([t._version for t in guard]) if guard else ()
    return out


def mark_written(tensor: Value) -> None:
    """Notes that the tensor's array was changed in place."""
    tensor._version[0] = next(_clock)


def _accumulate(leaf: Tensor, dx: Array, dy: Array) -> None:
    grad = leaf._grad
    if grad is None:
        # A view or the incoming gradient itself may be somebody else's gradient too.
        if dx is dy or type(dx.base) in _VIEWED:
            dx = dx.copy()
        leaf._grad = wrap(dx)
    else:
        kernels.add(grad._data, dx, out=grad._data)
        grad._version[0] = next(_clock)


_SEQUENCE = operator.attrgetter("seq")


def _order(root: Node) -> list[Node]:
    """All nodes below root, latest first."""
    found = [root]
    seen = {root}
    for node in found:  # grows while it is walked
        if node.inputs is None:
            raise RuntimeError(
                f"backward: the graph must still hold its saved arrays, but those of {node.name} "
                "were freed by an earlier backward; pass retain_graph=True to the earlier call, "
                "or run the forward pass again"
            )
        for edge in node.inputs:
            if type(edge) is Node and edge not in seen:
                seen.add(edge)
                found.append(edge)
    found.sort(key=_SEQUENCE, reverse=True)
    return found


def _first_gradient(root: Tensor, gradient: Tensor | Array | None) -> Array:
    data = root._data
    if gradient is None:
        if data.size != 1:
            raise ShapeError(
                f"backward: a tensor of one element is expected, got shape {data.shape}; reduce it "
                "(loss.mean()) or pass gradient= of the same shape"
            )
        return np.ones_like(data)
    array = gradient._data if isinstance(gradient, Value) else np.asarray(gradient)
    array = beside(array, data) if array.ndim == 0 else array
    if array.shape != data.shape:
        raise ShapeError(
            f"backward: gradient must have the tensor's shape {data.shape}, got {array.shape}"
        )
    if array.dtype != data.dtype:
        raise DTypeError(
            f"backward: gradient must have the tensor's dtype {data.dtype}, got {array.dtype}"
        )
    return array


def backward(root: Tensor, gradient: Tensor | Array | None, retain_graph: bool) -> None:
    """Adds d root / d leaf, times gradient, to the .grad of every leaf below root."""
    if not root._needs:
        raise RuntimeError(
            "backward: the tensor must depend on one with requires_grad=True, but none was "
            "recorded; was it made under no_grad, or from detached tensors?"
        )
    dy = _first_gradient(root, gradient)
    if root._node is None:
        _accumulate(root, dy, dy)
        return
    grads: dict[Node | Tensor | None, Array] = {root._node: dy}
    for node in _order(root._node):
        out_grad = grads.pop(node, None)
        if out_grad is not None:
            seq = node.seq
            for cell in node.cells:
                if cell[0] > seq:
                    raise RuntimeError(
                        f"backward: {node.name} needs a tensor that was changed in place after it "
                        "was used; call backward before the change (optimizer.step, add_, ...), "
                        "or change a clone()"
                    )
            for edge, dx in zip(node.inputs, node.backward(node, out_grad)):
                if edge is None or dx is None:
                    continue
                if type(edge) is Node:
                    before = grads.get(edge)
                    grads[edge] = dx if before is None else kernels.add(before, dx)
                else:
                    _accumulate(edge, dx, out_grad)  # type: ignore[arg-type]
        if not retain_graph:
            node.inputs = None  # type: ignore[assignment]
            node.saved = ()


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread."""
    return _mode.enabled


class set_grad_enabled:
    """Switches recording on or off in this thread; undone at the end when used with `with`."""

    __slots__ = ("_before",)

    def __init__(self, mode: bool) -> None:
        self._before = _mode.enabled
        _mode.enabled = bool(mode)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        _mode.enabled = self._before


class _Switch:
    """A context manager and decorator that records (or not) inside."""

    __slots__ = ("_before",)
    _enabled = True

    def __init__(self) -> None:
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(_mode.enabled)
        _mode.enabled = self._enabled

    def __exit__(self, *_: object) -> None:
        _mode.enabled = self._before.pop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{type(self).__name__}: a plain function is expected, got the generator "
                f"{function.__name__}; use `with` inside of it"
            )

        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with type(self)():
                return function(*args, **kwargs)

        return inside


class no_grad(_Switch):
    """`with no_grad():` or `@no_grad()`: operations inside are not recorded."""

    __slots__ = ()
    _enabled = False


class enable_grad(_Switch):
    """`with enable_grad():` or `@enable_grad()`: operations inside are recorded."""

    __slots__ = ()
