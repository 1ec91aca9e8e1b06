"""Brings what the router measured to the API process, which records it; keeps it while that is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

import orjson

from clary.inference.measurements import Measurements, Reading

RECORD_SECONDS = 5.0
MOST_WAITING = 720  # batches: an hour of them

Deliver = Callable[[bytes], Awaitable[bool]]
"""Hands a batch over; whether it may be forgotten."""

_log = logging.getLogger(__name__)


async def run(measurements: Measurements, deliver: Deliver, stop: asyncio.Event) -> None:
    """Hand measurements over every few seconds until `stop`, and what is left then."""
    waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
    stopping = asyncio.create_task(stop.wait())
    while True:
        await asyncio.wait((stopping,), timeout=RECORD_SECONDS)
        if readings := measurements.take():
            if len(waiting) == MOST_WAITING:
                _log.warning("measurements of endpoints of an hour ago are dropped: they could not be recorded")
            waiting.append(encoded(readings, time.time_ns() // 1_000_000))
        while waiting and await deliver(waiting[0]):
            waiting.popleft()
        if stop.is_set():
            return


def encoded(readings: Sequence[Reading], timestamp_ms: int) -> bytes:
    """A batch, as it is handed over."""
    return orjson.dumps({"timestamp_ms": timestamp_ms, "readings": [asdict(reading) for reading in readings]})


def decoded(batch: bytes) -> tuple[list[Reading], int]:
    """The readings of a batch, and when they were taken."""
    told = orjson.loads(batch)
    return [Reading(**reading) for reading in told["readings"]], told["timestamp_ms"]
