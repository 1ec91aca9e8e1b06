"""Lets a faster engine compute once its answers have been seen to be TensorFlow's own.

TensorFlow answers from the first request on. Beside it a thread prepares the faster engine for one signature after the
other and compares: first on the made-up samples that the server itself calls a new model with, then on the first real
request. From then on the faster engine answers, and TensorFlow whatever the engine declines. An engine that differs,
or that cannot run the signature, is dropped for good, and the log says why, once.
"""

from __future__ import annotations

import queue
import threading
import time

import numpy as np

from clary_toolkit.serving import log
from clary_toolkit.serving.execution import Declined, Executor, Unfit
from clary_toolkit.serving.signatures import DEFAULT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clary_toolkit.serving.execution import Engine
    from clary_toolkit.serving.signatures import Signature

    Arrays = Mapping[str, np.ndarray]
    Prepare = Callable[[Signature], Engine]

_LARGEST_SAMPLE = 64 * 1024 * 1024  # bytes that are kept until they have been compared


class CheckedExecutor(Executor):
    """Answers by a faster engine for each signature where that one has proved equal, else by `trusted`.

    Args:
        trusted: computes until then, and whatever the engine declines.
        prepare: makes the engine of a signature; raises Unfit with the reason where there can be none.
        tolerance: the largest difference, as a part of the largest value of the output.
        name: the model's, for the log.
    """

    def __init__(self, trusted: Executor, prepare: Prepare, tolerance: float, name: str) -> None:
        self.signatures = trusted.signatures
        self.kind = trusted.kind
        self._trusted = trusted
        self._prepare = prepare
        self._tolerance = tolerance
        self._name = name
        self._engines: dict[str, Engine] = {}
        only = len(self.signatures) == 1
        self._wanted = {name: _Progress(only or name == DEFAULT) for name in self.signatures}
        self._samples: queue.Queue[_Sample | None] = queue.Queue()
        self._declined: set[str] = set()
        threading.Thread(target=self._check, name="check", daemon=True).start()

    def run(self, signature: Signature, inputs: Arrays) -> dict[str, np.ndarray]:
        engine = self._engines.get(signature.name)
        if engine is not None:
            try:
                return engine.run(inputs)
            except Exception as error:  # noqa: BLE001 - the boundary to the engine: TensorFlow answers, the log says why
                outputs = self._trusted.run(signature, inputs)
                self._tell_of(signature, error)
                return outputs
        outputs = self._trusted.run(signature, inputs)
        self._offer(signature, inputs, outputs, is_real=True)
        return outputs

    def rehearse(self, signature: Signature, inputs: Arrays) -> dict[str, np.ndarray]:
        outputs = self._trusted.rehearse(signature, inputs)
        self._offer(signature, inputs, outputs, is_real=False)
        return outputs

    def gains_by_joining(self, signature: Signature) -> bool:
        engine = self._engines.get(signature.name)
        return self._trusted.gains_by_joining(signature) if engine is None else engine.gains_by_joining

    def close(self) -> None:
        self._samples.put(None)
        self._engines.clear()
        self._trusted.close()

    def _offer(self, signature: Signature, inputs: Arrays, outputs: dict[str, np.ndarray], *, is_real: bool) -> None:
        """Leave the sample to the thread, where it wants one."""
        progress = self._wanted.get(signature.name)
        if progress is None or not progress.wants(is_real):
            return
        if sum(array.nbytes for array in inputs.values()) > _LARGEST_SAMPLE:
            return
        progress.is_waiting = True
        # Outputs are their caller's, who may change them.
        copies = {name: np.array(array) for name, array in outputs.items()}
        self._samples.put(_Sample(signature, inputs, copies, is_real))

    def _check(self) -> None:
        """The thread: compares samples until every signature is decided."""
        candidates: dict[str, Engine] = {}
        while self._wanted:
            sample = self._samples.get()
            if sample is None:
                return
            signature = sample.signature
            progress = self._wanted[signature.name]
            try:
                if signature.name not in candidates:
                    began = time.monotonic()
                    candidates[signature.name] = self._prepare(signature)
                    progress.seconds = time.monotonic() - began
                engine = candidates[signature.name]
                difference = _difference(engine.run(sample.inputs), sample.outputs, self._tolerance)
                if difference:
                    raise Unfit(difference)
            except Declined:
                progress.is_waiting = False  # for the next one
                continue
            except Exception as error:  # noqa: BLE001 - the boundary to the engine: TensorFlow goes on, the log says why
                self._drop(signature, _in_words(error))
                continue
            if sample.is_real:
                del self._wanted[signature.name]
                self._engines[signature.name] = engine
                log.info(
                    "{}, signature {}: {} computes from now on. It was ready after {:.1f} s, and its answer to the "
                    "first request is TensorFlow's within {:g}.".format(
                        self._name, signature.name, engine.name, progress.seconds, self._tolerance
                    )
                )
            else:
                progress.is_made_up_done = True
            progress.is_waiting = False

    def _drop(self, signature: Signature, reason: str) -> None:
        del self._wanted[signature.name]
        log.info("{}, signature {}: TensorFlow computes. {}".format(self._name, signature.name, reason))

    def _tell_of(self, signature: Signature, error: Exception) -> None:
        if signature.name not in self._declined:
            self._declined.add(signature.name)
            log.info(
                "{}, signature {}: TensorFlow answered a request. {} More of the kind are not told.".format(
                    self._name, signature.name, _in_words(error)
                )
            )


class _Progress:
    """How far the check of a signature is. One that may never be called takes no memory before it is."""

    def __init__(self, is_usual: bool) -> None:
        self.is_waiting = False  # for a sample to be compared
        self.is_made_up_done = not is_usual
        self.seconds = 0.0

    def wants(self, is_real: bool) -> bool:
        return not self.is_waiting and (is_real or not self.is_made_up_done)


class _Sample:
    """A call and TensorFlow's outputs; real where a client asked."""

    def __init__(self, signature: Signature, inputs: Arrays, outputs: dict[str, np.ndarray], is_real: bool) -> None:
        self.signature = signature
        self.inputs = inputs
        self.outputs = outputs
        self.is_real = is_real


def _in_words(error: Exception) -> str:
    text = " ".join(str(error).split())[:400]
    return text if isinstance(error, (Declined, Unfit)) else "{}: {}".format(type(error).__name__, text)


def _difference(got: Arrays, expected: Arrays, tolerance: float) -> str:
    """In words; empty where the outputs are equal enough."""
    for name, reference in expected.items():
        array = got[name]
        if array.shape != reference.shape or array.dtype != reference.dtype:
            return "Its output {} is {} of shape {}; TensorFlow's is {} of shape {}.".format(
                name, array.dtype, list(array.shape), reference.dtype, list(reference.shape)
            )
        if reference.dtype.kind != "f":
            if not np.array_equal(array, reference):
                return "Its output {} differs from TensorFlow's.".format(name)
            continue
        finite = np.isfinite(reference)
        if not np.array_equal(array[~finite], reference[~finite], equal_nan=True):
            return "Its output {} has other NaN or infinite values than TensorFlow's.".format(name)
        largest = float(np.abs(reference[finite]).max()) if finite.any() else 0.0
        apart = float(np.abs(array[finite] - reference[finite]).max()) if finite.any() else 0.0
        if not apart <= tolerance * largest:
            return "Its output {} differs from TensorFlow's by {:.2g}, where values reach {:.2g}.".format(
                name, apart, largest
            )
    return ""
