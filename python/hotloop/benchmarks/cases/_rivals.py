"""Short ways to write what a rival does. Rivals are imported when a call is built, never before."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..case import Arrays, Build, Call


def torch_call(make: Callable[[Any, dict[str, Any]], Call]) -> Build:
    """`make(torch, tensors)`: the case's arrays as tensors over the same memory."""

    def build(arrays: Arrays) -> Call:
        torch: Any = importlib.import_module("torch")
        tensors = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in arrays.items()
        }
        call = make(torch, tensors)

        def without_tape() -> Any:
            with torch.no_grad():
                return call()

        return without_tape

    return build


def jax_call(make: Callable[[Any], Callable[..., Any]], names: Sequence[str]) -> Build:
    """`make(jax)` is a function of the named arrays; it is jitted and waited for."""

    def build(arrays: Arrays) -> Call:
        jax: Any = importlib.import_module("jax")
        if any(arrays[name].dtype == np.float64 for name in names):
            jax.config.update("jax_enable_x64", True)
        function = jax.jit(make(jax))
        values = [jax.device_put(arrays[name]) for name in names]
        return lambda: function(*values).block_until_ready()

    return build


def onnx_call(
    operator: str,
    names: Sequence[str],
    attributes: Mapping[str, Any] | None = None,
    result: str = "",
) -> Build:
    """One operator of ONNX Runtime over the named arrays, results bound to memory of its own.

    The first array is the input, the others are constants; `result` is the result's dtype where it
    is not the input's.
    """

    def build(arrays: Arrays) -> Call:
        import os

        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        first, *constants = names
        kind = {
            "float32": TensorProto.FLOAT,
            "float64": TensorProto.DOUBLE,
            "int8": TensorProto.INT8,
            "uint8": TensorProto.UINT8,
            "int32": TensorProto.INT32,
        }
        value = arrays[first]
        node = helper.make_node(operator, list(names), ["y"], **(attributes or {}))
        graph = helper.make_graph(
            [node],
            "bench",
            [helper.make_tensor_value_info(first, kind[str(value.dtype)], value.shape)],
            [helper.make_tensor_value_info("y", kind[result or str(value.dtype)], None)],
            [numpy_helper.from_array(arrays[name], name) for name in constants],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        binding = session.io_binding()
        binding.bind_cpu_input(first, value)
        binding.bind_output("y")

        def call() -> Any:
            session.run_with_iobinding(binding)
            return binding

        return call

    return build


def as_array(result: Any) -> list[np.ndarray]:
    """What a contender returned, as arrays that can be compared."""
    if result is None:
        return []
    if isinstance(result, tuple | list):
        return [array for part in result for array in as_array(part)]
    if hasattr(result, "copy_outputs_to_cpu"):  # ONNX Runtime's binding
        return [np.asarray(part) for part in result.copy_outputs_to_cpu()]
    if hasattr(result, "detach"):
        result = result.detach()
        return [np.asarray(result.numpy() if hasattr(result, "numpy") else result)]
    return [np.asarray(result)]
