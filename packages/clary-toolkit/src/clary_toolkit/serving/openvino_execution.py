"""Computes a signature by OpenVINO on the processor's cores: faster than TensorFlow, above all for images one by one.

The model is compiled twice: for any number of rows, and, where a row has a known shape, for one row alone, which
OpenVINO then plans ahead. Precision is float32 unless the settings ask for another: OpenVINO itself would choose
bfloat16 where the processor has it. Threads are not bound to cores, which other processes share. A model of 8-bit
integers is quantised first (`quantisation`); what stays in floating point is float32.
"""

from __future__ import annotations

import math
import queue
import time

import numpy as np

from clary_toolkit.serving import openvino_reading, quantisation
from clary_toolkit.serving.execution import Declined, Engine, Unfit
from clary_toolkit.serving.settings import BFLOAT16, FLOAT32, INT8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from clary_toolkit.serving.openvino_reading import ReadModel
    from clary_toolkit.serving.signatures import Signature

_PRECISIONS = {FLOAT32: "f32", BFLOAT16: "bf16", INT8: "f32"}
# Rows are joined where so many of them take less than this part of the time that they take one by one: most networks
# for images keep all cores busy with a single one, and those that come together would only wait for each other.
_ROWS, _GAIN = 4, 0.85
_TRIES = 3
_SMALLEST, _LARGEST = -(2**31), 2**31 - 1


class OpenVino:
    """OpenVINO, set to this server's precision and share of the machine.

    Args:
        precision: "float32", "bfloat16" or "int8".
        cores: how many threads a model's calls use together.
        slots: how many calls run at once.

    Raises ImportError where OpenVINO is not in this environment.
    """

    def __init__(self, precision: str, cores: int, slots: int) -> None:
        import openvino  # type: ignore[import-not-found]

        self.version: str = openvino.__version__.split("-")[0]
        self.core: Any = openvino.Core()
        self.precision = precision
        self.slots = slots
        self._options = {
            "PERFORMANCE_HINT": "LATENCY" if slots == 1 else "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": max(cores, slots),
            "NUM_STREAMS": slots,
            "ENABLE_CPU_PINNING": False,
        }

    def engine(self, path: str, signature: Signature, samples: Sequence[Mapping[str, np.ndarray]]) -> Engine:
        """The engine of one signature of the SavedModel at `path`; `samples` are what int8 is calibrated by.

        Raises Unfit.
        """
        read = openvino_reading.read(self.core, path, signature)
        if self.precision == INT8:
            model = quantisation.quantised(self.core, read, samples)
            read = openvino_reading.ReadModel(model, read.inputs, read.outputs, read.table_sizes)
        try:
            return _CompiledSignature(self, read)
        except RuntimeError as error:
            raise Unfit("OpenVINO cannot compile it: {}".format(" ".join(str(error).split())[:300])) from error

    def compile(self, model: Any) -> Any:
        """The openvino.CompiledModel."""
        return self.core.compile_model(model, "CPU", self._options)


class _CompiledSignature(Engine):
    def __init__(self, openvino: OpenVino, read: ReadModel) -> None:
        self.name = "OpenVINO {} ({})".format(openvino.version, openvino.precision)
        self._inputs = [(spec.name, spec.numpy, np.dtype(spec.numpy).kind) for spec in read.inputs]
        self._outputs = [spec.name for spec in read.outputs]
        self._table_sizes = read.table_sizes
        self._any = _Requests(openvino.compile(read.model), openvino.slots)
        self._one: _Requests | None = None
        self._shape_of_one: tuple[tuple[int, ...], ...] = ()
        rows = [_row_of(port.get_partial_shape()) for port in read.model.inputs]
        if rows and all(row is not None for row in rows):
            single = read.model.clone()
            single.reshape({index: list(row or ()) for index, row in enumerate(rows)})
            self._one = _Requests(openvino.compile(single), openvino.slots)
            self._shape_of_one = tuple(row or () for row in rows)
            self.gains_by_joining = self._time_of(_ROWS) < _ROWS * self._time_of(1) * _GAIN

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = [_fit(inputs[name], kind) for name, _, kind in self._inputs]
        is_one = self._one is not None and tuple(array.shape for array in arrays) == self._shape_of_one
        requests = self._one if is_one and self._one is not None else self._any
        results = requests.run(arrays)
        extremes = results[len(self._outputs) :]
        for size, smallest, largest in zip(self._table_sizes, extremes[::2], extremes[1::2]):
            if smallest.size and (smallest < 0 or largest >= size):
                raise Declined(
                    "It looks up {} in a table of {}.".format(int(smallest if smallest < 0 else largest), size)
                )
        return dict(zip(self._outputs, results))

    def _time_of(self, rows: int) -> float:
        """Seconds that a call of so many rows takes, the shortest of a few."""
        zeros = [np.zeros((rows, *shape[1:]), dtype) for shape, (_, dtype, _) in zip(self._shape_of_one, self._inputs)]
        requests = self._one if rows == 1 and self._one is not None else self._any
        seconds: list[float] = []
        for _ in range(_TRIES):
            began = time.perf_counter()
            requests.run(zeros)
            seconds.append(time.perf_counter() - began)
        return min(seconds)


class _Requests:
    """A compiled model's requests, one for each call that runs at the same time."""

    def __init__(self, compiled: Any, count: int) -> None:
        self._count = len(compiled.outputs)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(compiled.create_infer_request())

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        request = self._free.get()
        try:
            request.infer(arrays, share_inputs=True, share_outputs=True)
            # The memory of a request's outputs is the next call's.
            return [np.array(request.get_output_tensor(index).data) for index in range(self._count)]
        finally:
            self._free.put(request)


def _row_of(shape: Any) -> tuple[int, ...] | None:
    """The shape with one row, where the number of rows alone is open."""
    if shape.rank.is_dynamic or not len(shape) or shape[0].is_static:
        return None
    sizes = [size.get_length() if size.is_static else 0 for size in list(shape)[1:]]
    return None if 0 in sizes else (1, *sizes)


def _fit(array: np.ndarray, kind: str) -> np.ndarray:
    """The array, where OpenVINO computes with such values as TensorFlow does. Raises Declined."""
    if not array.size:
        raise Declined("The request has no values.")
    if kind == "f":
        # NaN becomes 0 in some of OpenVINO's functions. A sum that is no number is rare, and looked into.
        with np.errstate(all="ignore"):
            total = float(array.sum())
        if not math.isfinite(total) and not np.isfinite(array).all():
            raise Declined("The request has NaN or infinite values.")
    elif array.dtype.itemsize == 8 and (array.min() < _SMALLEST or array.max() > _LARGEST):
        raise Declined("The request has whole numbers of more than 32 bits.")
    return array
