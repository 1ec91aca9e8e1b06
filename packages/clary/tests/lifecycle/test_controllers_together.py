"""Several controllers on one record, as several servers would be, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from driven_platform import GIB, DrivenPlatform
from sqlalchemy import select

import postgres
from clary.cluster.base import Placement, Resources
from clary.cluster.packing import pack
from clary.host.spec import Phase
from clary.lifecycle.training_placement import placement_of
from clary.state import migrate
from clary.state.training_jobs import TrainingHost, unreleased_hosts


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[DrivenPlatform]:
    """A platform with room for two small jobs at a time."""
    if request.param == "postgresql":
        url = postgres.new_database(request.getfixturevalue("postgres_url"), "controllers")
        migrate.upgrade(url)
        yield from _platform(tmp_path, url)
    else:
        migrate.upgrade(f"sqlite:///{tmp_path / 'clary.db'}")
        yield from _platform(tmp_path, None)


def _platform(home: Path, url: str | None) -> Generator[DrivenPlatform]:
    platform = DrivenPlatform(home, url)
    platform.cluster.total = Resources(cpus=4, memory_bytes=16 * GIB)
    yield platform
    platform.close()


def test_no_job_is_started_twice_and_no_resource_given_twice(shared: DrivenPlatform) -> None:
    names = [f"job-{number}" for number in range(8)]
    for name in names:
        shared.create(name, instance_type="ml.m5.large")
    stop = threading.Event()
    problems: list[str] = []

    def control() -> None:
        controller = shared.new_controller()
        while not stop.is_set():
            try:
                for job_id in controller.due():
                    controller.step(job_id)
            except Exception as error:  # noqa: BLE001 (a thread's error must reach the test)
                problems.append(repr(error))
                return
            stop.wait(0.01)

    threads = [threading.Thread(target=control) for _ in range(3)]
    for thread in threads:
        thread.start()
    finished: list[str] = []
    deadline = threading.Event()
    timer = threading.Timer(60, deadline.set)
    timer.start()
    try:
        while len(finished) < len(names) and not problems:
            assert not deadline.is_set(), f"only {finished} finished in time"
            with shared.database.reading() as session:
                taken = tuple(placement_of(host) for host in unreleased_hosts(session))
            _check(shared, taken)
            for spec in list(shared.cluster.started):
                if spec.job_name not in finished:
                    (host,) = shared.hosts(spec.job_name)
                    host.reach(Phase.UPLOADING)
                    host.end("Completed")
                    shared.leave(host)
                    finished.append(spec.job_name)
            stop.wait(0.01)
    finally:
        timer.cancel()
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []
    shared.settle()
    with shared.database.reading() as session:
        placed = list(session.scalars(select(TrainingHost.job_name).order_by(TrainingHost.created_time)))
    assert placed == names, "jobs get their places in the order of their creation"
    assert {shared.job(name).status for name in names} == {"Completed"}
    assert {len(shared.job(name).hosts) for name in names} == {1}


def _check(platform: DrivenPlatform, taken: tuple[Placement, ...]) -> None:
    assert pack(platform.cluster.nodes(), [placement.resources for placement in taken], ()) is not None
