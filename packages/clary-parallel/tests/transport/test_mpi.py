"""Processes under mpirun keep the transport's promises; a job whose ranks cannot go on ends and says why."""

from __future__ import annotations

import pytest
from transport_cases import CASES

from parallel_lab import Ended, run_ranks

from parallel_lab import TESTS  # isort: skip

pytestmark = pytest.mark.slow

START = """
import os, signal, sys, time
import numpy as np
from clary_parallel.transport.mpi import connect
t = connect()
t.barrier()
"""


@pytest.fixture(scope="module", params=[2, 3])
def all_cases(request: pytest.FixtureRequest) -> tuple[int, Ended]:
    """How many ranks there were, and how the cases ended on them."""
    return request.param, run_ranks(TESTS / "programs" / "transport_cases.py", request.param)


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_conformance(name: str, all_cases: tuple[int, Ended]) -> None:
    ranks, ended = all_cases
    assert sorted(ended.reports) == list(range(ranks)), ended.errors
    assert [report.get(name, ended.errors) for report in ended.reports.values()] == [None] * ranks


def test_a_killed_rank_ends_the_job_and_is_named() -> None:
    ended = run_ranks(START + "if t.rank == 1: os.kill(os.getpid(), signal.SIGKILL)\nt.barrier()", 2, timeout=60)
    assert ended.code != 0
    assert "rank 1" in ended.errors
    assert "signal 9" in ended.errors


def test_a_rank_that_raises_ends_the_job_with_its_error() -> None:
    ended = run_ranks(START + "if t.rank == 1: raise ValueError('no such file')\nt.barrier()", 2, timeout=60)
    assert ended.code != 0
    assert "rank 1 failed with ValueError: no such file; this ends the job" in ended.errors


def test_a_stopped_rank_ends_the_job_within_the_patience_and_is_named() -> None:
    program = START + "if t.rank == 1: os.kill(os.getpid(), signal.SIGSTOP)\nt.allreduce(np.zeros(10))"
    ended = run_ranks(program, 2, variables={"CLARY_PARALLEL_PATIENCE": "8"}, timeout=60)
    assert ended.code != 0
    assert "rank 0 waited 8 s in allreduce for rank 1" in ended.errors
    assert "Rank 1 was last heard of" in ended.errors
    assert "stopped or cut off" in ended.errors


def test_a_rank_that_does_something_else_ends_the_job_and_is_named() -> None:
    program = START + "if t.rank == 1: time.sleep(50)\nt.allreduce(np.zeros(10))"
    ended = run_ranks(program, 3, variables={"CLARY_PARALLEL_PATIENCE": "3"}, timeout=40)
    assert ended.code != 0
    assert "waited 3 s in allreduce for rank 1." in ended.errors
    assert "Rank 1 is alive" in ended.errors
    assert "its last was barrier" in ended.errors


def test_an_aborted_job_says_why() -> None:
    ended = run_ranks(START + "if t.rank == 1: t.abort('the disk is full')\nt.barrier()", 2, timeout=60)
    assert ended.code != 0
    assert "rank 1: the disk is full" in ended.errors


def test_a_wait_is_watched_while_other_threads_come_and_go() -> None:
    program = (
        START
        + """
import threading
if t.rank == 0:
    waiting = threading.Thread(target=lambda: t.irecv(np.zeros(1), 1, tag=9).wait())
    waiting.start()
else:
    time.sleep(50)
while True:
    t.isend(np.zeros(1), t.rank).wait()
    t.irecv(np.zeros(1), t.rank).wait()
"""
    )
    ended = run_ranks(program, 2, variables={"CLARY_PARALLEL_PATIENCE": "3"}, timeout=40)
    assert ended.code != 0
    assert "rank 0 waited 3 s in a receive from rank 1 with tag 9 for rank 1. Rank 1 is alive" in ended.errors
