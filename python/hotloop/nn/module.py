"""Module: what every layer and network is.

Parameters, buffers and children are plain attributes, found by their type: reading `self.weight`
costs what reading any attribute costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from .._core import DTypeError, ShapeError
from ..autograd import mark_written
from ..device import device as find_device
from ..device_array import DeviceArray
from ..ops.convert import dtype_of
from ..tensor import Tensor
from .parameter import Buffer, Parameter

__all__ = ["Module"]

T = TypeVar("T")


class Keys(NamedTuple):
    """What load_state_dict(strict=False) did not use."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A layer or network: `forward` computes, attributes hold parameters and other modules."""

    training: bool = True
    _transient: frozenset[str] = frozenset()  # buffers that are not saved

    def __init__(self) -> None:
        pass

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes; every subclass says it."""
        raise NotImplementedError(f"{type(self).__name__}: forward must be defined, it is not")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.forward(*args, **kwargs)
        except Exception as error:
            _note_path(error, self)
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        before = self.__dict__.get(name)
        if before is not None and value is not None:
            if isinstance(before, Buffer):
                if isinstance(value, Tensor) and not isinstance(value, (Buffer, Parameter)):
                    value = Buffer(value.detach())
            elif isinstance(before, Parameter) and not isinstance(value, (Parameter, Module)):
                raise TypeError(
                    f"{type(self).__name__}: a Parameter or None is expected for {name!r}, got "
                    f"{type(value).__name__}; to change the values use "
                    f"{name}.copy_(...) under no_grad"
                )
        object.__setattr__(self, name, value)

    # Parts.

    def add_module(self, name: str, module: Module | None) -> None:
        """Sets the child of that name."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"add_module: a Module is expected, got {type(module).__name__}")
        if not name or "." in name:
            raise ValueError(f"add_module: a name without dots is expected, got {name!r}")
        setattr(self, name, module)

    register_module = add_module

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Sets the parameter of that name."""
        if parameter is not None and not isinstance(parameter, Parameter):
            raise TypeError(
                f"register_parameter: a Parameter is expected, got {type(parameter).__name__}"
            )
        setattr(self, name, parameter)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Sets the buffer of that name; it is saved where persistent."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer: a Tensor is expected, got {type(tensor).__name__}")
        setattr(self, name, None if tensor is None else Buffer(tensor))
        transient = self._transient - {name} if persistent else self._transient | {name}
        object.__setattr__(self, "_transient", transient)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules that are attributes, with their names."""
        for name, value in self.__dict__.items():
            if isinstance(value, Module):
                yield name, value

    def children(self) -> Iterator[Module]:
        """The modules that are attributes."""
        for _, child in self.named_children():
            yield child

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below, each once, with their paths."""
        seen: set[Module] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            if module in seen:
                continue
            seen.add(module)
            yield path, module
            below = [(_join(path, name), child) for name, child in module.named_children()]
            stack.extend(reversed(below))

    def modules(self) -> Iterator[Module]:
        """This module and all below, each once."""
        for _, module in self.named_modules():
            yield module

    def _named(self, kind: type[T], prefix: str, recurse: bool) -> Iterator[tuple[str, T]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix) if recurse else iter([(prefix, self)])
        for path, module in modules:
            for name, value in module.__dict__.items():
                if isinstance(value, kind) and id(value) not in seen:
                    seen.add(id(value))
                    yield _join(path, name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """All parameters, each once, with their paths."""
        return self._named(Parameter, prefix, recurse)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, each once."""
        for _, parameter in self._named(Parameter, "", recurse):
            yield parameter

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Buffer]]:
        """All buffers, each once, with their paths."""
        return self._named(Buffer, prefix, recurse)

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """All buffers, each once."""
        for _, buffer in self._named(Buffer, "", recurse):
            yield buffer

    def get_submodule(self, target: str) -> Module:
        """The module at that path, "" for this one."""
        module = self
        for name in target.split(".") if target else ():
            child = module.__dict__.get(name)
            if not isinstance(child, Module):
                raise AttributeError(
                    f"get_submodule: {target!r} must name a module, but {type(module).__name__} "
                    f"has no child {name!r}"
                )
            module = child
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at that path."""
        path, _, name = target.rpartition(".")
        parameter = self.get_submodule(path).__dict__.get(name)
        if not isinstance(parameter, Parameter):
            raise AttributeError(f"get_parameter: {target!r} must name a parameter, it does not")
        return parameter

    # State.

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that is saved; shared tensors under each of their names."""
        for path, module in _every_path(self, ""):
            for name, value in module.__dict__.items():
                if isinstance(value, (Parameter, Buffer)) and name not in module._transient:
                    yield _join(path, name), value

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by path: detached, but the same memory."""
        return {name: tensor.detach() for name, tensor in self._state()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Keys:
        """Copies values into parameters and buffers: all of them, or, on an error, none.

        Args:
            state_dict: tensors or arrays by path.
            strict: whether missing and unexpected names raise.

        Raises:
            RuntimeError: strict, and the names differ; or the module is frozen.
            ShapeError, DTypeError: an entry that does not fit.
        """
        own = dict(self._state())
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        if strict and (missing or unexpected):
            raise RuntimeError(
                f"load_state_dict: the names must be those of {type(self).__name__}, got "
                f"missing: {_listed(missing)}; unexpected: {_listed(unexpected)}; "
                "pass strict=False to use what fits"
            )
        values: dict[str, Any] = {}
        for name, tensor in own.items():
            if name in state_dict:
                values[name] = _fitting(name, tensor, state_dict[name])
        for name, value in values.items():
            np.copyto(own[name]._data, value)
            mark_written(own[name])
        return Keys(missing, unexpected)

    # Modes and conversions.

    def train(self, mode: bool = True) -> Self:
        """Training mode on (or off) for this module and all below: dropout and batch norms."""
        if not isinstance(mode, bool):
            raise TypeError(f"train: a bool is expected, got {type(mode).__name__}")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Training mode off."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Switches the gradients of all parameters on or off."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def freeze(self) -> Self:
        """Fixes the weights for use without training.

        Evaluation mode, no gradients for parameters, and each parameter in memory of its own that
        cannot be written, so that layers may keep copies which are quicker to multiply by
        (linear and convolution layers do): writes raise, and arrays that shared the old memory no
        longer reach it. A layer whose parameter is replaced goes on with the new one. A deep copy
        is not frozen.
        """
        for module in self.modules():
            trained = {name: value.requires_grad for name, value in module._own_parameters()}
            module.__dict__.setdefault("_before_freeze", (module.training, trained))
        self.eval().requires_grad_(False)
        for parameter in self.parameters():
            parameter._data = parameter._data.copy()
            parameter._data.flags.writeable = False
        for module in self.modules():
            module._keep_copies()
        return self

    def unfreeze(self) -> Self:
        """Lets the weights be written again; modes and requires_grad are as before `freeze`."""
        for module in self.modules():
            module._drop_copies()
            training, trained = module.__dict__.pop("_before_freeze", (module.training, {}))
            module.training = training
            for name, value in module._own_parameters():
                value.requires_grad_(trained.get(name, value.requires_grad))
        for parameter in self.parameters():
            if not parameter._data.flags.writeable:
                parameter._data = parameter._data.copy()
        return self

    def _own_parameters(self) -> list[tuple[str, Parameter]]:
        return list(self._named(Parameter, "", False))

    def _keep_copies(self) -> None:
        """What a layer does when it is frozen; its parameters do not change from now on."""

    def _drop_copies(self) -> None:
        """The opposite."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of all parameters, or sets them to 0."""
        for parameter in self.parameters():
            if set_to_none:
                parameter._grad = None
            elif parameter._grad is not None:
                parameter._grad.zero_()

    def apply(self, function: Callable[[Module], object]) -> Self:
        """Calls function with every module, children first."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def to(self, *targets: Any, dtype: Any = None, device: Any = None) -> Self:
        """Converts float parameters and buffers to a dtype, or moves all to a device, or both."""
        for target in targets:
            if (isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda")) or (
                hasattr(target, "type") and hasattr(target, "index")
            ):
                device = target
            else:
                dtype = target
        place = None if device is None else find_device(device)
        wanted = None if dtype is None else dtype_of("to", dtype)
        if wanted is not None and wanted.kind != "f":
            raise DTypeError(f"to: a module holds float32 or float64, got {wanted}")
        for _, tensor in [*self._named(Parameter, "", True), *self._named(Buffer, "", True)]:
            kind = wanted if tensor._data.dtype.kind == "f" else None
            if tensor._grad is not None:
                tensor._grad = tensor._grad.to(dtype=kind, device=place)
            tensor._data = tensor.detach().to(dtype=kind, device=place)._data
        return self

    def float(self) -> Self:
        """Converts to float32."""
        return self.to(np.float32)

    def double(self) -> Self:
        """Converts to float64."""
        return self.to(np.float64)

    def cpu(self) -> Self:
        """Moves to the CPU."""
        return self.to("cpu")

    def cuda(self) -> Self:
        """On the GPU; raises DeviceError, with the reason, where there is none."""
        return self.to("cuda")

    # Text.

    def extra_repr(self) -> str:
        """What stands between the parentheses of the module's text."""
        return ""

    def __repr__(self) -> str:
        lines = []
        for name, child in self.named_children():
            lines.append(f"  ({name}): " + repr(child).replace("\n", "\n  "))
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        inside = "\n".join(([f"  {extra}"] if extra else []) + lines)
        return f"{type(self).__name__}(\n{inside}\n)"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _every_path(module: Module, path: str) -> Iterator[tuple[str, Module]]:
    """Like named_modules, but a shared module comes under each of its paths."""
    yield path, module
    for name, child in module.named_children():
        yield from _every_path(child, _join(path, name))


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 8 else shown or "none"


def _fitting(name: str, tensor: Tensor, value: Any) -> Any:
    """value as an array that may be copied into tensor."""
    array = value._data if isinstance(value, Tensor) else value
    if not isinstance(array, (np.ndarray, DeviceArray)):
        raise TypeError(
            f"load_state_dict: {name!r} must be a Tensor or an ndarray, got {type(value).__name__}"
        )
    if array.shape != tensor.shape:
        raise ShapeError(
            f"load_state_dict: {name!r} must have shape {tensor.shape}, got {array.shape}; "
            "was the network built with other sizes?"
        )
    if not tensor._data.flags.writeable:
        raise RuntimeError(
            f"load_state_dict: {name!r} must be writable, got a read-only tensor; is the module "
            "frozen? Call unfreeze() first"
        )
    if array.dtype != tensor.dtype:
        raise DTypeError(
            f"load_state_dict: {name!r} must be {tensor.dtype}, got {array.dtype}; convert the "
            f"module (.to(np.{array.dtype})) or the entry"
        )
    return array


def _note_path(error: Exception, module: Module) -> None:
    """Writes the failing layer's path, seen from `module`, into the error's notes.

    Each module on the way out writes it anew, longer by one name.
    """
    known = getattr(error, "_hotloop_layer", None)
    if known is None:
        layer, index, path = module, len(getattr(error, "__notes__", ())), ""
        error.add_note("")
        error._hotloop_layer = layer, index  # type: ignore[attr-defined]
    else:
        layer, index = known
        path = next((name for name, found in module.named_modules() if found is layer), "")
    if path or known is None:
        place = (
            f"in layer '{path}' ({type(layer).__name__})" if path else f"in {type(layer).__name__}"
        )
        error.__notes__[index] = place
