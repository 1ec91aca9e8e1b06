"""Gives calls to the model: at once while the device is free, joined into batches while it is busy.

No call ever waits for company: those that come while the device is at work are taken together, as far as they fit, when
it is done. A batch that fails is run again call by call, so that one bad request does not fail its neighbours.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque

import numpy as np

from clary_toolkit.serving import log
from clary_toolkit.serving.errors import ServingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clary_toolkit.serving.execution import Executor
    from clary_toolkit.serving.signatures import Signature

    Outputs = dict[str, np.ndarray]

# Of a call's time in what is known as usual; a single long one counts no more than this.
_WEIGHT = 0.1
_LONG = 0.002


class Call:
    """One call of a model, and where its outcome goes.

    Args:
        executor: what runs it.
        signature: which of its signatures.
        inputs: the tensors by name.
        rows: how many rows all inputs have, where the call may be joined with others; else None.
        done: called once, by whichever thread ran it, with the outputs or the error.
    """

    def __init__(
        self,
        executor: Executor,
        signature: Signature,
        inputs: Mapping[str, np.ndarray],
        rows: int | None,
        done: Callable[[Outputs | ServingError], None],
    ) -> None:
        self.executor = executor
        self.signature = signature
        self.inputs = inputs
        self.rows = rows
        self.done = done

    def key(self) -> object:
        """Equal for calls that may be joined."""
        if self.rows is None:
            return self
        return (id(self.executor), self.signature.name) + tuple(array.shape[1:] for array in self.inputs.values())


class Device:
    """What computes, with room for `slots` calls at once.

    Args:
        slots: how many calls of a model run at the same time.
        max_rows: the most rows of a batch of several calls. A single call may have more.
        elsewhere: runs a function on another thread, soon.
    """

    def __init__(self, slots: int, max_rows: int, elsewhere: Callable[[Callable[[], None]], None]) -> None:
        self._slots = slots
        self._max_rows = max_rows
        self._elsewhere = elsewhere
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: OrderedDict[object, deque[Call]] = OrderedDict()

    def submit(self, call: Call) -> None:
        """Run the call now on this thread, or leave it to the threads that are running others."""
        with self._lock:
            if self._running >= self._slots:
                self._waiting.setdefault(call.key(), deque()).append(call)
                return
            self._running += 1
        self._work([call])

    def run(
        self, executor: Executor, signature: Signature, inputs: Mapping[str, np.ndarray], rows: int | None
    ) -> Outputs:
        """The outputs of a call; waits for them. Raises ServingError."""
        finished = threading.Event()
        outcomes: list[Outputs | ServingError] = []

        def done(outcome: Outputs | ServingError) -> None:
            outcomes.append(outcome)
            finished.set()

        call = Call(executor, signature, inputs, rows, done)
        with self._lock:
            free = self._running < self._slots
            if free:
                self._running += 1
            else:
                self._waiting.setdefault(call.key(), deque()).append(call)
        if free:
            outcome = _run([call])[0]
            following = self._next()
            if following:
                self._elsewhere(lambda: self._work(following))
            outcomes.append(outcome)
        else:
            finished.wait()
        if isinstance(outcomes[0], ServingError):
            raise outcomes[0]
        return outcomes[0]

    def _work(self, batch: list[Call]) -> None:
        """Run the batch and whatever has come meanwhile; answers are given elsewhere while there is more to run."""
        while batch:
            outcomes = _run(batch)
            following = self._next()
            for call, outcome in zip(batch, outcomes):
                if following:
                    self._elsewhere(lambda call=call, outcome=outcome: call.done(outcome))
                else:
                    call.done(outcome)
            batch = following

    def _next(self) -> list[Call]:
        """The calls to run next, the longest waiting first; gives the slot back where there are none."""
        with self._lock:
            if not self._waiting:
                self._running -= 1
                return []
            key, calls = self._waiting.popitem(last=False)
            batch = [calls.popleft()]
            rows = batch[0].rows or 0
            while calls and rows + (calls[0].rows or 0) <= self._max_rows:
                rows += calls[0].rows or 0
                batch.append(calls.popleft())
            if calls:
                self._waiting[key] = calls
            return batch


def _run(batch: list[Call]) -> list[Outputs | ServingError]:
    if len(batch) == 1:
        return [_run_one(batch[0])]
    first = batch[0]
    joined = {name: np.concatenate([call.inputs[name] for call in batch]) for name in first.inputs}
    outputs = _attempt(first, joined)
    rows = [call.rows or 0 for call in batch]
    if isinstance(outputs, ServingError) or any(
        not array.ndim or len(array) != sum(rows) for array in outputs.values()
    ):
        return [_run_one(call) for call in batch]
    parts: list[Outputs | ServingError] = []
    start = 0
    for count in rows:
        parts.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return parts


def _run_one(call: Call) -> Outputs | ServingError:
    return _attempt(call, call.inputs)


def _attempt(call: Call, inputs: Mapping[str, np.ndarray]) -> Outputs | ServingError:
    executor = call.executor
    started = time.perf_counter()
    try:
        outputs = executor.run(call.signature, inputs)
        executor.usual_seconds += (min(time.perf_counter() - started, _LONG) - executor.usual_seconds) * _WEIGHT
        return outputs
    except ServingError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the boundary to the model: whoever called it gets the error
        log.exception("The model failed")
        return ServingError("{}: {}".format(type(error).__name__, error), 500)
