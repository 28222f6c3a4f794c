"""What all optimizers share: parameter groups, state, and one kernel call per group and step.

Differences from PyTorch, none of which changes a result: the step count in `state` is a Python
number instead of a tensor (with `capturable` a tensor, shared by the parameters that have taken as
many steps), and `foreach` and `fused` are accepted and mean nothing, since every
step is one call over all tensors of a group already.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from hotloop import kernels
from hotloop.autograd import enable_grad, mark_written, wrap
from hotloop.device_array import beside, on_gpu, zeros
from hotloop.tensor import Tensor

__all__ = ["Optimizer", "ParamsLike", "plain"]

Array = np.ndarray[Any, Any]
ParamsLike: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


def plain(value: Any) -> Any:
    """A tensor's array; anything else as it is."""
    return value._data if isinstance(value, Tensor) else value


class Optimizer:
    """Base class. A subclass gives the defaults and `_slots` and implements `_update`.

    Attributes:
        grad_norm: the norm of all gradients that the last `step(max_norm=...)` found, else None; of
            parameters on a GPU a tensor there.
    """

    _slots: tuple[str, ...] = ()  # names of the state arrays, in the kernel's order
    _unsupported: tuple[str, ...] = ("differentiable",)

    def __init__(self, params: ParamsLike, defaults: dict[str, Any]) -> None:
        self.grad_norm: float | Tensor | None = None
        if isinstance(params, Tensor | Mapping | str):
            raise TypeError(
                f"{self._name}: params must be an iterable of tensors or dicts, got "
                f"{type(params).__name__}; pass model.parameters() or [tensor]"
            )
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups: list[Any] = list(params)
        if not groups:
            raise ValueError(
                f"{self._name}: params must not be empty; was the iterator used up before, "
                "or has the model no parameters?"
            )
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds `{"params": ..., **options}`; options that are left out take the defaults."""
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(
                f'{self._name}: a group must be a dict with "params", got {param_group!r:.80}; '
                'write {"params": [...], "lr": 0.01}'
            )
        unknown = set(param_group) - set(self.defaults) - {"params", "param_names"}
        if unknown:
            raise TypeError(
                f"{self._name}: a group's options must be among {', '.join(self.defaults)}, got "
                f"{', '.join(sorted(unknown))}; check the spelling"
            )
        group = {**self.defaults, **param_group}
        group["params"] = self._tensors(group["params"])
        self._check_options(group)
        taken = {id(p) for g in self.param_groups for p in g["params"]}
        for param in group["params"]:
            if id(param) in taken:
                raise ValueError(
                    f"{self._name}: a parameter must be in one group once, got one of shape "
                    f"{tuple(param.shape)} again; take it out of the other place"
                )
            taken.add(id(param))
        self.param_groups.append(group)

    def _tensors(self, params: Any) -> list[Tensor]:
        if isinstance(params, Tensor):
            params = [params]
        elif isinstance(params, set | frozenset):
            raise TypeError(
                f"{self._name}: params must be ordered, got a set; use a list, or the state "
                "cannot be matched to the parameters again"
            )
        result = []
        for param in params:
            tensor = param[1] if isinstance(param, tuple) and len(param) == 2 else param
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    f"{self._name}: params must be tensors, got {type(tensor).__name__}; "
                    "wrap arrays with hl.tensor(..., requires_grad=True)"
                )
            if not getattr(tensor, "is_leaf", True):
                raise ValueError(
                    f"{self._name}: params must be leaves, got the result of an operation; "
                    "pass the tensor it was computed from, or tensor.detach()"
                )
            result.append(tensor)
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients of all parameters, or fills them with zeros where they exist."""
        for group in self.param_groups:
            for param in group["params"]:
                grad = param._grad
                if grad is None:
                    continue
                if set_to_none:
                    param._grad = None
                else:
                    grad._data[...] = 0
                    mark_written(grad)

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        grad_scale: float | Array | Tensor = 1.0,
        max_norm: float | None = None,
    ) -> Any:
        """Updates every parameter that has a gradient, in place.

        Args:
            closure: called first, with recording on; it zeroes the gradients, computes the loss,
                calls backward and returns the loss.
            grad_scale: the gradients are divided by it on the way, without being written.
            max_norm: the gradients of all groups together (after grad_scale) are scaled down to
                this 2-norm on the way, as by `nn.utils.clip_grad_norm_`, without being written.

        Returns:
            The closure's loss, or None.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        scale = plain(grad_scale)
        if max_norm is not None:
            scale = self._clipping_scale(scale, max_norm)
        for group in self.param_groups:
            self._step_group(group, scale)
        return loss

    def _clipping_scale(self, grad_scale: Any, max_norm: float) -> Any:
        """What the gradients are to be divided by, the clipping included."""
        self._check_range("max_norm", max_norm, 0.0, math.inf)
        groups = self.param_groups
        grads = [p._grad._data for g in groups for p in g["params"] if p._grad is not None]
        norm, scale = kernels.clipped_grad_scale(grads, max_norm, grad_scale=grad_scale)
        self.grad_norm = wrap(norm) if on_gpu(norm) else norm
        return scale

    def _step_group(self, group: dict[str, Any], grad_scale: Any) -> None:
        # Tensors that got no gradient in some step are behind in their count, so one call covers
        # those of equal count (and dtype): nearly always all of them.
        batches: dict[tuple[Any, ...], list[list[Array]]] = {}
        written: list[tuple[Tensor, dict[str, Any]]] = []
        states = self.state
        names = self._slots_of(group)
        capturable = group.get("capturable", False)
        if capturable:
            self._advance_in_place(group)
        for param in group["params"]:
            grad = param._grad
            if grad is None:
                continue
            data = param._data
            state = states[param]
            slots = self._state_arrays(state, data, group, names)
            count = id(state["step"]) if capturable else self._count(state, group)
            key = (count, data.dtype)
            batch = batches.get(key)
            if batch is None:
                batch = batches[key] = [[] for _ in range(2 + len(slots))]
            batch[0].append(data)
            batch[1].append(grad._data)
            for column, slot in zip(batch[2:], slots):
                column.append(slot)
            written.append((param, state))
        common = {"grad_scale": grad_scale, "maximize": group["maximize"]}
        if capturable:
            counts = {id(state["step"]): state["step"]._data for _, state in written}
        for (count, _), columns in batches.items():
            self._update(group, counts[count] if capturable else count, common, columns)
        for param, state in written:
            if not capturable:
                self._advance(state, group)
            mark_written(param)

    def _advance_in_place(self, group: dict[str, Any]) -> None:
        """Counts the coming step in tensors, beside the parameters: a step that is recorded and
        replayed counts itself. Who has taken as many steps shares one tensor."""
        here = [p for p in group["params"] if p._grad is not None]
        fresh: dict[tuple[int, Any], Tensor] = {}
        for param in here:
            state = self.state[param]
            steps = state.get("step", 0)
            if not isinstance(steps, Tensor):
                key = (int(steps), getattr(param._data, "device_index", None))
                if key not in fresh:
                    fresh[key] = wrap(zeros((), np.float32, param._data))
                    if steps:
                        fresh[key]._data.fill(float(steps))
                state["step"] = fresh[key]
        inside = {id(p) for p in here}
        kept = {id(s.get("step")) for p, s in self.state.items() if id(p) not in inside}
        moved: dict[int, Tensor] = {}
        for param in here:
            state = self.state[param]
            steps = state["step"]
            if id(steps) not in moved:
                # Whoever takes no part this time keeps the count that was.
                ours = wrap(steps._data.copy()) if id(steps) in kept else steps
                kernels.add(ours._data, 1.0, out=ours._data)
                mark_written(ours)
                moved[id(steps)] = ours
            state["step"] = moved[id(steps)]

    def _slots_of(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Those of `_slots` that the group's options need."""
        return self._slots

    def _state_arrays(
        self, state: dict[str, Any], data: Array, group: dict[str, Any], names: tuple[str, ...]
    ) -> list[Array]:
        """The arrays of `names` for one parameter, made at its first step."""
        if "step" not in state:
            state["step"] = 0
        arrays = []
        for name in names:
            slot = state.get(name)
            if slot is None:
                slot = state[name] = wrap(np.zeros_like(data, order="C"))
            arrays.append(slot._data)
        return arrays

    def _count(self, state: dict[str, Any], group: dict[str, Any]) -> Any:
        """What one call needs to know of a parameter's history: the number of the coming step."""
        return state["step"] + 1

    def _advance(self, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Notes in the state that the step was done."""
        state["step"] += 1

    def _update(
        self, group: dict[str, Any], count: Any, common: dict[str, Any], columns: list[list[Array]]
    ) -> None:
        raise NotImplementedError

    def _check_options(self, group: dict[str, Any]) -> None:
        """Raises for values out of range and for options that are not supported."""
        for name in self._unsupported:
            if group.get(name):
                raise ValueError(f"{self._name}: {name}=True is not supported; {REMEDIES[name]}")
        for name in ("lr", "eps", "weight_decay", "momentum", "lr_decay", "momentum_decay"):
            if name in group:
                self._check_range(name, group[name], 0.0, math.inf)
        if "betas" in group:
            betas = group["betas"]
            if not isinstance(betas, tuple | list) or len(betas) != 2:
                raise ValueError(f"{self._name}: betas must be two numbers, got {betas!r}")
            for beta in betas:
                self._check_range("betas", beta, 0.0, 1.0)

    def _check_range(self, name: str, value: Any, low: float, high: float) -> None:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"{self._name}: {name} must be a number, got {type(value).__name__}"
            ) from None
        if not low <= number < high:
            raise ValueError(f"{self._name}: {name} must be in [{low:g}, {high:g}), got {value!r}")

    def state_dict(self) -> dict[str, Any]:
        """State and groups as plain values and tensors; parameters are numbered over all groups.

        As in PyTorch the tensors are the optimizer's own, not copies: save it or copy it before
        the next step.
        """
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for param in group["params"]:
                numbers[id(param)] = len(numbers)
            groups.append({**group, "params": [numbers[id(p)] for p in group["params"]]})
        state = {numbers[id(p)]: dict(s) for p, s in self.state.items() if id(p) in numbers}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over a `state_dict` of the same optimizer over parameters of the same shapes.

        Everything is checked before anything is changed; arrays are copied and take each
        parameter's dtype.
        """
        try:
            saved_groups, saved_state = state_dict["param_groups"], state_dict["state"]
            lengths = [len(g["params"]) for g in saved_groups]
        except (KeyError, TypeError):
            raise ValueError(
                f'{self._name}: a state_dict must have "state" and "param_groups"; '
                "pass what optimizer.state_dict() returned"
            ) from None
        own = [len(g["params"]) for g in self.param_groups]
        if lengths != own:
            raise ValueError(
                f"{self._name}: the groups must have {own} parameters, got {lengths}; build the "
                "optimizer over the same parameters as the one that was saved"
            )
        params = [p for g in self.param_groups for p in g["params"]]
        order = [number for g in saved_groups for number in g["params"]]
        state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        for number, param in zip(order, params):
            if number in saved_state:
                state[param] = self._adopt(param, saved_state[number])
        groups = []
        for group, saved in zip(self.param_groups, saved_groups):
            known = {k: v for k, v in saved.items() if k in self.defaults}
            merged = {**group, **known, "params": group["params"]}
            self._check_options(merged)
            groups.append(merged)
        self.param_groups = groups
        self.state = state

    def _adopt(self, param: Tensor, saved: Mapping[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = {"step": int(saved.get("step", 1))}
        if "mu_product" in saved:
            state["mu_product"] = float(saved["mu_product"])
        for name in self._slots:
            value = saved.get(name)
            if value is None:
                continue
            array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
            if array.shape != tuple(param.shape):
                raise ValueError(
                    f"{self._name}: {name} must have the parameter's shape {tuple(param.shape)}, "
                    f"got {array.shape}; was the model built with other sizes?"
                )
            copied = np.array(array, dtype=param._data.dtype, order="C")
            state[name] = wrap(beside(copied, param._data))
        return state

    def __repr__(self) -> str:
        lines = [f"{self._name} ("]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            lines += [f"    {k}: {v}" for k, v in sorted(group.items()) if k != "params"]
        return "\n".join([*lines, ")"])


REMEDIES = {
    "capturable": "its counts are numbers of the CPU; take Adam or AdamW",
    "differentiable": "there is no derivative through an optimizer step",
}
