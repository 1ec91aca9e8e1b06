"""A lease belongs to one worker at a time, on SQLite and PostgreSQL, among threads and among processes."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select

from clary.state.database import Database, now
from clary.state.leases import Lease, LeaseLost, claim, keep
from clary.state.training_jobs import TrainingJob


def _add_jobs(database: Database, count: int) -> None:
    with database.transaction() as session:
        session.add_all(
            TrainingJob(
                name=f"job-{number}",
                arn=f"arn:{number}",
                status="InProgress",
                secondary_status="Pending",
                creation_time=now() + dt.timedelta(seconds=number),
                last_modified_time=now(),
                request={},
                transitions=[],
            )
            for number in range(count)
        )


def test_a_claimed_row_is_nobody_elses(database: Database) -> None:
    _add_jobs(database, 3)
    assert len(claim(database, TrainingJob, limit=2)) == 2
    assert len(claim(database, TrainingJob, limit=2)) == 1
    assert claim(database, TrainingJob, limit=2) == []


def test_only_rows_that_satisfy_the_condition_are_claimed_in_order(database: Database) -> None:
    _add_jobs(database, 4)
    leases = claim(
        database, TrainingJob, TrainingJob.name != "job-3", limit=2, order_by=TrainingJob.creation_time.desc()
    )
    with database.reading() as session:
        names = session.scalars(select(TrainingJob.name).where(TrainingJob.id.in_([one.key for one in leases])))
        assert set(names) == {"job-2", "job-1"}


def test_what_is_applied_is_recorded_and_the_row_is_free_again(database: Database) -> None:
    _add_jobs(database, 1)
    (lease,) = claim(database, TrainingJob)
    with lease.apply(database) as session:
        session.get_one(TrainingJob, lease.key).status = "Completed"
    assert database.query(select(TrainingJob.status)) == [("Completed",)]
    assert len(claim(database, TrainingJob)) == 1


def test_an_expired_lease_goes_to_another_and_the_first_cannot_apply(database: Database) -> None:
    _add_jobs(database, 1)
    (first,) = claim(database, TrainingJob, seconds=0.05)
    second = _claim_when_free(database)
    with pytest.raises(LeaseLost), first.apply(database) as session:
        session.get_one(TrainingJob, first.key).status = "Failed"
    with pytest.raises(LeaseLost):
        first.extend(database)
    first.release(database)
    with second.apply(database, release=False) as session:
        session.get_one(TrainingJob, second.key).status = "Completed"
    assert database.query(select(TrainingJob.status)) == [("Completed",)]
    assert claim(database, TrainingJob) == []


def test_a_lease_of_a_deleted_row_is_lost(database: Database) -> None:
    _add_jobs(database, 1)
    (lease,) = claim(database, TrainingJob)
    with database.transaction() as session:
        session.delete(session.get_one(TrainingJob, lease.key))
    with pytest.raises(LeaseLost), lease.apply(database):
        pass


def test_a_kept_lease_does_not_expire(database: Database) -> None:
    _add_jobs(database, 1)
    (lease,) = claim(database, TrainingJob, seconds=0.3)
    deadline = time.monotonic() + 0.9
    with keep(database, lease) as lost:
        while time.monotonic() < deadline:
            assert claim(database, TrainingJob) == []
            lost.wait(0.05)
        assert not lost.is_set()


def test_the_keeper_says_when_the_lease_is_lost(database: Database) -> None:
    _add_jobs(database, 1)
    (lease,) = claim(database, TrainingJob, seconds=0.15)
    with keep(database, lease) as lost:
        lease.release(database)
        assert lost.wait(5)


def test_many_threads_share_the_work_without_doing_any_twice(database: Database) -> None:
    _add_jobs(database, 60)

    def work(_: int) -> list[int]:
        done: list[int] = []
        while leases := claim(database, TrainingJob, TrainingJob.status == "InProgress", limit=3):
            for lease in leases:
                with lease.apply(database) as session:
                    session.get_one(TrainingJob, lease.key).status = "Completed"
                done.append(lease.key)
        return done

    with ThreadPoolExecutor(8) as pool:
        done = [key for keys in pool.map(work, range(8)) for key in keys]
    assert len(done) == len(set(done)) == 60


@pytest.mark.slow
def test_many_processes_share_the_work_without_doing_any_twice(database: Database) -> None:
    _add_jobs(database, 40)
    command = [sys.executable, str(Path(__file__).with_name("lease_worker.py")), database.url]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    done = Counter(key for output in outputs for key in output.split())
    assert len(done) == 40
    assert set(done.values()) == {1}
    assert database.query(select(func.count()).where(TrainingJob.status == "Completed")) == [(40,)]


def _claim_when_free(database: Database) -> Lease:
    deadline, pause = time.monotonic() + 10, threading.Event()
    while time.monotonic() < deadline:
        if leases := claim(database, TrainingJob):
            return leases[0]
        pause.wait(0.02)
    raise AssertionError("the lease did not expire")
