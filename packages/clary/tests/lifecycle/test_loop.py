"""The loop: woken by changes, by the clock for what it was not told of, and stopped in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from driven_platform import DrivenPlatform

from clary.cluster.base import Clusters
from clary.lifecycle import loop
from clary.state import changes


@asynccontextmanager
async def running(platform: DrivenPlatform) -> AsyncGenerator[None]:
    stop = asyncio.Event()
    clusters = Clusters(jobs=platform.cluster, endpoints=platform.cluster)
    task = asyncio.create_task(
        loop.run(platform.database, clusters, platform.store, platform.settings, platform.credentials, stop)
    )
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come about in time"
        await asyncio.sleep(0.005)


async def test_an_announced_job_is_taken_up_without_waiting_for_the_clock(
    platform: DrivenPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "POLL_SECONDS", 3600)
    async with running(platform):
        await asyncio.sleep(0)
        platform.create("job")
        changes.announce(platform.database, "training-job", "job")
        await until(lambda: bool(platform.hosts("job")))


async def test_a_job_that_nobody_announced_is_found(platform: DrivenPlatform) -> None:
    async with running(platform):
        platform.create("job")
        await until(lambda: bool(platform.hosts("job")))


async def test_a_report_moves_the_job_on_at_once(platform: DrivenPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "POLL_SECONDS", 3600)
    async with running(platform):
        platform.create("first")
        platform.create("second")
        changes.announce(platform.database, "training-job", "first")
        await until(lambda: bool(platform.hosts("first")))
        (host,) = platform.hosts("first")
        await asyncio.to_thread(host.end, "Completed")
        platform.leave(host)
        await until(lambda: platform.job("first").status == "Completed")
        await until(lambda: bool(platform.hosts("second")))


async def test_a_step_that_fails_is_tried_again(platform: DrivenPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_BACK_OFF_SECONDS", 0.05)
    original = platform.cluster.nodes
    failures = 2

    def nodes() -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError("the cluster is away")
        return original()

    monkeypatch.setattr(platform.cluster, "nodes", nodes)
    async with running(platform):
        platform.create("job")
        await until(lambda: bool(platform.hosts("job")))
    assert failures == 0


async def test_stopping_the_loop_leaves_jobs_to_run(platform: DrivenPlatform) -> None:
    async with running(platform):
        platform.create("job")
        await until(lambda: bool(platform.hosts("job")))
    assert platform.job("job").status == "InProgress"
    assert platform.cluster.ended == set()
