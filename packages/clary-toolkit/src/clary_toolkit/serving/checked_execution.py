"""Lets a faster engine compute once its answers have been seen to be TensorFlow's own.

TensorFlow answers from the first request on. Beside it a thread prepares the faster engine for one signature after the
other and compares: first on the made-up samples that the server itself calls a new model with, then on the first real
request. An engine that is made after real requests waits for some of them, and is compared on all. From then on the
faster engine answers, and TensorFlow whatever the engine declines. An engine that differs, cannot run the signature or
takes longer is dropped for good, and the log says why, once.
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
    from collections.abc import Callable, Mapping, Sequence

    from clary_toolkit.serving.execution import Engine
    from clary_toolkit.serving.signatures import Signature

    Arrays = Mapping[str, np.ndarray]
    Prepare = Callable[[Signature, Sequence[Arrays]], Engine]

_LARGEST_SAMPLE = 64 * 1024 * 1024  # bytes that are kept until they have been compared
_CALLS, _RACE_SECONDS = 5, 1.0
_SLOWER, _SLOWER_SECONDS = 1.2, 0.0005
# One check at a time, of all models: two threads that use OpenVINO for the first time at once can wait for each other
# for ever, one for Python's lock and one for a value that the other is making. Nor is there time for more.
_turn = threading.Lock()
_RACES = 3  # that are to be lost: a busy machine may decide one


class CheckedExecutor(Executor):
    """Answers by a faster engine for each signature where that one has proved equal, else by `trusted`.

    Args:
        trusted: computes until then, and whatever the engine declines.
        prepare: makes the engine of a signature, after the inputs of the requests that were kept for it; raises Unfit
            with the reason where there can be none.
        tolerance: the largest difference, as a part of the largest value of the output.
        name: the model's, for the log.
        rows: how many rows of real requests are kept for `prepare`.
    """

    def __init__(self, trusted: Executor, prepare: Prepare, tolerance: float, name: str, rows: int = 0) -> None:
        self.signatures = trusted.signatures
        self.kind = trusted.kind
        self._trusted = trusted
        self._prepare = prepare
        self._tolerance = tolerance
        self._name = name
        self._engines: dict[str, Engine] = {}
        only = len(self.signatures) == 1
        self._wanted = {name: _Progress((only or name == DEFAULT) and not rows) for name in self.signatures}
        self._rows = rows
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
            with _turn:
                self._decide(sample, candidates)

    def _decide(self, sample: _Sample, candidates: dict[str, Engine]) -> None:
        """Compare one sample, and take the signature over or drop the engine where that can be said."""
        signature = sample.signature
        progress = self._wanted[signature.name]
        try:
            if signature.name not in candidates:
                if self._rows and not progress.keep(sample, self._rows):
                    progress.is_waiting = False  # for the next one
                    return
                began = time.monotonic()
                candidates[signature.name] = self._prepare(signature, [kept.inputs for kept in progress.kept])
                progress.seconds = time.monotonic() - began
            engine = candidates[signature.name]
            for each in progress.kept or [sample]:
                difference = _difference(engine.run(each.inputs), each.outputs, self._tolerance)
                if difference:
                    raise Unfit(difference)
            progress.kept.clear()
            slower = self._race(engine, sample) if sample.is_real else ""
            if slower and progress.races_lost + 1 < _RACES:
                progress.races_lost += 1
                raise Declined(slower)
            if slower:
                raise Unfit(slower)
        except Declined:
            progress.is_waiting = False  # for the next one
            return
        except Exception as error:  # noqa: BLE001 - the boundary to the engine: TensorFlow goes on, the log says why
            self._drop(signature, _in_words(error))
            return
        if sample.is_real:
            del self._wanted[signature.name]
            self._engines[signature.name] = engine
            log.info(
                "{}, signature {}: {} computes from now on. It was ready after {:.1f} s, and its answer to the "
                "first request is TensorFlow's within {:g}{}.".format(
                    self._name,
                    signature.name,
                    engine.name,
                    progress.seconds,
                    self._tolerance,
                    " of the largest value, as those to the others that it was made after" if self._rows else "",
                )
            )
        else:
            progress.is_made_up_done = True
        progress.is_waiting = False

    def _race(self, engine: Engine, sample: _Sample) -> str:
        """How much longer the engine takes than TensorFlow, by the shortest of a few calls; empty where it does not."""
        own: list[float] = []
        trusted: list[float] = []
        began = time.perf_counter()
        while not own or (len(own) < _CALLS and time.perf_counter() - began < _RACE_SECONDS):
            start = time.perf_counter()
            engine.run(sample.inputs)
            middle = time.perf_counter()
            self._trusted.run(sample.signature, sample.inputs)
            own.append(middle - start)
            trusted.append(time.perf_counter() - middle)
        if min(own) <= min(trusted) * _SLOWER + _SLOWER_SECONDS:
            return ""
        return "{} gives the same, but takes {:.1f} ms where TensorFlow takes {:.1f} ms.".format(
            engine.name, min(own) * 1000, min(trusted) * 1000
        )

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
        self.races_lost = 0
        self.seconds = 0.0
        self.kept: list[_Sample] = []

    def keep(self, sample: _Sample, rows: int) -> bool:
        """Keep a sample; whether there are so many rows."""
        self.kept.append(sample)
        return sum(kept.rows for kept in self.kept) >= rows

    def wants(self, is_real: bool) -> bool:
        return not self.is_waiting and (is_real or not self.is_made_up_done)


class _Sample:
    """A call and TensorFlow's outputs; real where a client asked."""

    def __init__(self, signature: Signature, inputs: Arrays, outputs: dict[str, np.ndarray], is_real: bool) -> None:
        self.signature = signature
        self.inputs = inputs
        self.outputs = outputs
        self.is_real = is_real

    @property
    def rows(self) -> int:
        return max((len(array) for array in self.inputs.values() if array.ndim), default=1)


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
