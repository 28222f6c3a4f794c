"""Bad input to device "cuda": a typed error that says what to do, and a library that goes on."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import cuda_library
import hotloop as hl
from cuda_library import get, put
from hotloop import _core

pytestmark = pytest.mark.usefixtures("cuda")


@contextmanager
def machine(devices: int, capability: tuple[int, int] = (8, 0), error: int = 0) -> Iterator[None]:
    """The emulator as another machine, with the library opened anew on it; then as it was."""
    if cuda_library.ON_DEVICE:
        pytest.skip("a real machine is what it is")
    path = str(cuda_library.library())
    pretend = ctypes.CDLL(path).hotloop_emulation_machine
    pretend(devices, *capability, error)
    _core.cuda_use_library(path)
    try:
        yield
    finally:
        pretend(2, 8, 0, 0)
        _core.cuda_use_library(path)
    assert hl.tensor([1.0, -1.0], device="cuda").relu().tolist() == [1, 0]  # usable again


INSUFFICIENT_DRIVER, NO_DEVICE, INITIALIZATION = 35, 100, 3


@pytest.mark.parametrize(
    ("devices", "error", "reason"),
    [
        (0, INSUFFICIENT_DRIVER, "no NVIDIA driver, or one too old"),
        (0, NO_DEVICE, "CUDA finds no GPU"),
        (0, 0, "CUDA finds no GPU"),
        (0, INITIALIZATION, "CUDA failed: "),
    ],
    ids=["no driver", "no device", "no device at all", "another failure"],
)
def test_no_driver_and_no_device(devices, error, reason):
    with machine(devices, error=error):
        assert not hl.cuda.is_available()
        assert reason in hl.cuda.unavailable_reason()
        assert hl.cuda.device_count() == 0
        assert hl.cuda.memory_allocated() == 0
        hl.cuda.empty_cache()
        for call in (
            lambda: hl.device("cuda"),
            lambda: hl.ones(2).to("cuda"),
            lambda: hl.nn.Linear(2, 2).to("cuda"),
            hl.cuda.synchronize,
            lambda: _core.cuda_array(np.ones(2), 0),
        ):
            with pytest.raises(hl.DeviceError, match=f"{reason}.*"):
                call()
        device = "cuda" if hl.cuda.is_available() else "cpu"
        assert hl.tensor([2.0], device=device).relu().tolist() == [2]


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), True), ((10, 0), False)],
)
def test_an_unsupported_architecture(capability, runs):
    """The emulated library is "built for" sm_80 and sm_90a, like the one for development."""
    with machine(1, capability):
        assert hl.cuda.is_available() is runs
        if runs:
            assert hl.zeros(2, device="cuda").tolist() == [0, 0]
            return
        name = "".join(map(str, capability))
        told = rf"this GPU \(.*\) is sm_{name}, .* built for 80-real;90a-real: rebuild with "
        told += f"HOTLOOP_CUDA_ARCHITECTURES={name}-real"
        for call in (lambda: hl.device("cuda"), lambda: hl.ones(2).cuda()):
            with pytest.raises(hl.DeviceError, match=told):
                call()


def test_out_of_memory_says_what_was_asked_and_what_is_there():
    gc.collect()
    hl.cuda.empty_cache()
    kept = put(np.ones(3 << 18, "f4"))  # 3 MiB, in a block of 4
    cached = put(np.ones(5 << 18, "f4"))
    del cached
    graph = _core.CudaGraph(0)
    graph.begin()
    k = hl.kernels.relu(kept)
    graph.end()
    total = _core.cuda_info(0)["total_bytes"]
    told = (
        rf"empty: no memory on cuda:0 for {total >> 20} MiB \({total} bytes\): \d+ MiB of \d+ MiB "
        r"are free, hotloop holds \d+ MiB in arrays and \d+ MiB in its cache, graphs keep 4 MiB; "
        r"take a smaller batch, or free arrays and call hl\.cuda\.empty_cache\(\)"
    )
    with pytest.raises(MemoryError, match=told):
        _core.cuda_empty((total,), np.dtype("u1"), 0)
    graph.replay()
    assert get(k)[0] == 1
    assert get(kept).sum() == 3 << 18


def test_an_index_out_of_range():
    count = hl.cuda.device_count()
    for call in (
        lambda: hl.device(f"cuda:{count}"),
        lambda: hl.ones(2).to(f"cuda:{count}"),
        lambda: hl.cuda.synchronize(count),
        lambda: hl.cuda.synchronize(-1),
        lambda: _core.cuda_array(np.ones(2), count),
        lambda: _core.CudaGraph(count),
    ):
        with pytest.raises(hl.DeviceError, match=f"below {count}, the number of GPUs"):
            call()
    with pytest.raises(ValueError, match=r"device: .* is expected, got 'gpu'"):
        hl.device("gpu")
    assert hl.ones(1).cuda().tolist() == [1]


class Foreign:
    """A tensor of another library, whose capsule may say anything."""

    def __init__(self, device: tuple[int, int] = (2, 0), code: int = 2, bits: int = 32) -> None:
        self.array, self.device, self.code, self.bits = put(np.ones(3, "f4")), device, code, bits

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: object = None) -> object:
        capsule = self.array.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        type_at = 8 + 8 + 4  # data, device, ndim
        fields = (ctypes.c_uint8 * 2).from_address(pointer(capsule, b"dltensor") + type_at)
        fields[:] = (self.code, self.bits)
        return capsule


def test_dlpack_of_the_wrong_device_or_dtype():
    assert hl.from_dlpack(Foreign()).tolist() == [1, 1, 1]
    with pytest.raises(hl.DeviceError, match="below"):
        hl.from_dlpack(Foreign(device=(2, 99)))
    with pytest.raises(hl.DeviceError, match="type 10"):  # ROCm
        hl.from_dlpack(Foreign(device=(10, 0)))
    for code, bits in ((4, 16), (5, 64), (2, 8), (1, 24)):  # bfloat16, complex, float8, odd bits
        with pytest.raises(hl.DTypeError, match=f"type code {code} of {bits} bits.*convert"):
            hl.from_dlpack(Foreign(code=code, bits=bits))
    assert hl.from_dlpack(Foreign()).is_cuda


def test_an_out_of_another_device():
    x = np.ones(4, "f4")
    outs = [np.empty(4, "f4")]
    if hl.cuda.device_count() > 1:
        outs.append(_core.cuda_empty((4,), np.dtype("f4"), 1))
    for out in outs:
        with pytest.raises(hl.DeviceError, match="x and out must lie on one device, got cuda:0"):
            hl.kernels.relu(put(x), out=out)
        with pytest.raises(hl.DeviceError, match="must lie on one device"):
            hl.kernels.gemm(put(x.reshape(2, 2)), put(x.reshape(2, 2)), out=out.reshape(2, 2))
    with pytest.raises(hl.DeviceError, match="got cpu and cuda:0"):
        hl.kernels.relu(x, out=put(x))
    assert get(hl.kernels.relu(put(x))).tolist() == [1] * 4
