"""NVIDIA's management library (NVML), which comes with the driver: what GPUs are and how busy they are.

It is called in this process: `nvidia-smi`, which prints the same figures, is not on every machine's path, and to start
it each second for every host would cost more than what it measures.
Source: NVIDIA's NVML API reference, the functions of the same names.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from clary.host import gpus

_LIBRARY = "libnvidia-ml.so.1"
_TEXT_BYTES = 96


class NvmlError(Exception):
    """The library is not there or does not work; the message says why, in NVIDIA's words where it has any."""


@dataclass(frozen=True)
class Usage:
    """What a GPU does now. `busy` is the percentage of the last moment in which anything was computed; bytes."""

    busy: float
    memory_used: int
    memory_total: int


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Nvml:
    """The opened library. Raises NvmlError where it cannot be opened. Any thread may call it."""

    def __init__(self) -> None:
        folder = gpus.driver_folder()
        try:
            self._library = ctypes.CDLL(_LIBRARY if folder is None else str(folder / _LIBRARY))
        except OSError as error:
            raise NvmlError(f"{_LIBRARY}, a part of NVIDIA's driver, cannot be loaded: {error}") from None
        self._call("nvmlInit_v2")

    def driver(self) -> str:
        """The driver's version, such as "580.65.06"."""
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        self._call("nvmlSystemGetDriverVersion", text, ctypes.c_uint(_TEXT_BYTES))
        return text.value.decode()

    def count(self) -> int:
        """How many GPUs this process sees."""
        number = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(number))
        return number.value

    def name(self, number: int) -> str:
        """What GPU `number` is called."""
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        self._call("nvmlDeviceGetName", self._device(number), text, ctypes.c_uint(_TEXT_BYTES))
        return text.value.decode()

    def usage(self, number: int) -> Usage:
        """What GPU `number` does now."""
        device, busy = self._device(number), _Utilization()
        self._call("nvmlDeviceGetUtilizationRates", device, ctypes.byref(busy))
        memory = self._memory(device)
        return Usage(float(busy.gpu), memory.used, memory.total)

    def memory_bytes(self, number: int) -> int:
        """All memory of GPU `number`."""
        return self._memory(self._device(number)).total

    def _memory(self, device: ctypes.c_void_p) -> _Memory:
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
        return memory

    def _device(self, number: int) -> ctypes.c_void_p:
        device = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(number), ctypes.byref(device))
        return device

    def _call(self, function: str, *arguments: object) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            words = self._library.nvmlErrorString
            words.restype = ctypes.c_char_p
            raise NvmlError(f"{function}: {(words(code) or b'').decode() or f'error {code}'}")
