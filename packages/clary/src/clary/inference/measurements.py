"""What the router measures: counted in memory, handed over every few seconds as points for CloudWatch.

Latencies are kept to three significant digits, so that a thousand requests are some dozen points and percentiles can
still be told.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reading:
    """`count` times the same value of one metric of one variant."""

    endpoint: str
    variant: str
    name: str
    unit: str
    value: float
    count: int


@dataclass
class _Tally:
    invocations: int = 0
    client_errors: int = 0
    server_errors: int = 0
    instances: int = 1
    model_latency: dict[float, int] = field(default_factory=lambda: defaultdict[float, int](int))
    overhead_latency: dict[float, int] = field(default_factory=lambda: defaultdict[float, int](int))
    loading_wait: dict[float, int] = field(default_factory=lambda: defaultdict[float, int](int))
    cache_hits: int = 0
    cache_misses: int = 0


class Measurements:
    """Counts by endpoint and variant. Used in one event loop."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], _Tally] = {}

    def count(
        self, endpoint: str, variant: str, status: int, model_seconds: float, total_seconds: float, instances: int
    ) -> None:
        """Note one invocation.

        Args:
            status: of the container's answer, or what stands for it: 4xx and 5xx are counted as errors.
            model_seconds: how long the container took.
            total_seconds: how long the whole request took, without the time in which its body came.
            instances: how many the variant is to have.
        """
        tally = self._tally(endpoint, variant)
        tally.invocations += 1
        tally.instances = max(instances, 1)
        if 400 <= status < 500:
            tally.client_errors += 1
        elif status >= 500:
            tally.server_errors += 1
        tally.model_latency[_rounded(model_seconds * 1e6)] += 1
        tally.overhead_latency[_rounded((total_seconds - model_seconds) * 1e6)] += 1

    def count_model(self, endpoint: str, variant: str, *, hit: bool, wait: int) -> None:
        """Note whether the model of a multi-model endpoint was loaded already, and the wait for it in microseconds."""
        tally = self._tally(endpoint, variant)
        tally.loading_wait[_rounded(wait)] += 1
        tally.cache_hits += hit
        tally.cache_misses += not hit

    def _tally(self, endpoint: str, variant: str) -> _Tally:
        tally = self._tallies.get((endpoint, variant))
        if tally is None:
            tally = self._tallies[endpoint, variant] = _Tally()
        return tally

    def take(self) -> list[Reading]:
        """The readings since the last call."""
        tallies, self._tallies = self._tallies, {}
        return [
            reading for (endpoint, variant), tally in tallies.items() for reading in _read(endpoint, variant, tally)
        ]


def _read(endpoint: str, variant: str, tally: _Tally) -> list[Reading]:
    total = tally.invocations
    readings = _of_invocations(endpoint, variant, tally) if total else []
    for value, count in ((1.0, tally.cache_hits), (0.0, tally.cache_misses)):
        if count:
            readings.append(Reading(endpoint, variant, "ModelCacheHit", "None", value, count))
    waits = tally.loading_wait.items()
    return readings + [
        Reading(endpoint, variant, "ModelLoadingWaitTime", "Microseconds", value, count) for value, count in waits
    ]


def _of_invocations(endpoint: str, variant: str, tally: _Tally) -> list[Reading]:
    total = tally.invocations
    readings = [
        Reading(endpoint, variant, "Invocations", "None", 1.0, total),
        Reading(endpoint, variant, "InvocationsPerInstance", "None", 1.0 / tally.instances, total),
    ]
    for name, errors in (
        ("Invocation4XXErrors", tally.client_errors),
        ("Invocation5XXErrors", tally.server_errors),
        ("InvocationModelErrors", tally.client_errors + tally.server_errors),
    ):
        for value, count in ((1.0, errors), (0.0, total - errors)):
            if count:
                readings.append(Reading(endpoint, variant, name, "None", value, count))
    for name, values in (("ModelLatency", tally.model_latency), ("OverheadLatency", tally.overhead_latency)):
        readings += [Reading(endpoint, variant, name, "Microseconds", value, count) for value, count in values.items()]
    return readings


def _rounded(value: float) -> float:
    return float(f"{max(value, 0.0):.3g}")
