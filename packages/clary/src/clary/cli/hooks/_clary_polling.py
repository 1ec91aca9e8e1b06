"""Shortens the fixed waits of the SageMaker SDKs, so that `fit()` returns soon after the job's end.

The SDKs look at a job every 5 to 30 seconds. Here the modules that wait get a stand-in for their `time` module: its
`sleep` sleeps 0.1 to 0.25 seconds instead, whatever was asked. Nobody else's `time` changes, a timeout that the user
gave still counts real seconds, and nothing is done about waits that space out retries after an error.

Python 3.7 and later, standard library only.
"""

from __future__ import annotations

import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Patch = Callable[[Any], None]

SHORTEST, LONGEST = 0.1, 0.25  # seconds between two looks
_QUIET = 3.0  # a pause this long between two sleeps begins a new wait


class _Pace(threading.local):
    """How long this thread's next sleep is: short at first, then longer."""

    def __init__(self) -> None:
        self.seconds = SHORTEST
        self.last = 0.0


class ShortSleeps:
    """A `time` module whose sleeps are short."""

    def __init__(self) -> None:
        self._pace = _Pace()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        pace = self._pace
        if time.monotonic() - pace.last > _QUIET:
            pace.seconds = SHORTEST
        time.sleep(min(seconds, pace.seconds))
        pace.seconds = min(pace.seconds * 1.2, LONGEST)
        pace.last = time.monotonic()


class ElapsedAsAsked(ShortSleeps):
    """A `time` module whose sleeps are short, but count in full between two moments.

    The loops that print logs describe the job only when thirty seconds lie between two calls of `time()`:
    the difference of two moments has what was asked of `sleep`. A moment compared with a deadline is the real time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._slept = threading.local()

    def sleep(self, seconds: float) -> None:
        before = time.time()
        super().sleep(seconds)
        # One sleep satisfies a loop that waits for thirty seconds to pass.
        saved = max(seconds, 30.0) - (time.time() - before)
        self._slept.seconds = getattr(self._slept, "seconds", 0.0) + max(saved, 0.0)

    def time(self) -> float:
        return _Moment(time.time(), getattr(self._slept, "seconds", 0.0))


class _Moment(float):
    """The real time, with how much sleep had been saved by then."""

    saved: float

    def __new__(cls, seconds: float, saved: float) -> _Moment:
        moment = super().__new__(cls, seconds)
        moment.saved = saved
        return moment

    def __sub__(self, other: float) -> float:
        elapsed = float(self) - float(other)
        return elapsed + (self.saved - other.saved) if isinstance(other, _Moment) else elapsed


def _give(stand_in: ShortSleeps) -> Patch:
    def patch(module: Any) -> None:
        if getattr(module, "time", None) is time:
            module.time = stand_in

    return patch


def _quick_waiters(module: Any) -> None:
    """botocore's waiters for SageMaker look each minute or two: now each quarter second, for as long in all."""
    original = module.Waiter.wait

    def wait(self: Any, **kwargs: Any) -> Any:
        asked = kwargs.get("WaiterConfig") or {}
        operation = str(getattr(self.config, "operation", ""))
        if "Delay" not in asked and _is_sagemaker(self) and operation.startswith("Describe"):
            attempts = int(asked.get("MaxAttempts", self.config.max_attempts))
            scaled = int(attempts * self.config.delay / LONGEST)
            kwargs["WaiterConfig"] = dict(asked, Delay=LONGEST, MaxAttempts=scaled)
        return original(self, **kwargs)

    wait.__doc__ = original.__doc__
    module.Waiter.wait = wait


def _is_sagemaker(waiter: Any) -> bool:
    client = getattr(getattr(waiter, "_operation_method", None), "_client_method", None)
    owner = getattr(client, "__self__", None)
    return getattr(getattr(getattr(owner, "meta", None), "service_model", None), "service_name", "") == "sagemaker"


_SHORT = _give(ShortSleeps())
_ELAPSED = _give(ElapsedAsAsked())

PATCHES: dict[str, Patch] = {
    # v1, v2: they tail logs and describe each thirty seconds.
    "sagemaker.session": _ELAPSED,
    # v3 (and sagemaker-core, which v2 carries too): the same loops, and resources that wait for a state.
    "sagemaker.core.helper.session_helper": _ELAPSED,
    "sagemaker.core.processing": _ELAPSED,
    "sagemaker.core.transformer": _ELAPSED,
    "sagemaker.core.remote_function.job": _ELAPSED,
    "sagemaker.core.resources": _SHORT,
    "sagemaker_core.main.resources": _SHORT,
    "sagemaker.train.common_utils.job_wait": _SHORT,
    "sagemaker.train.common_utils.log_streamer": _SHORT,
    "sagemaker.train.common_utils.trainer_wait": _SHORT,
    "botocore.waiter": _quick_waiters,
}
