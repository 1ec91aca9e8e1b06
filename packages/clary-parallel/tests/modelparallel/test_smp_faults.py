"""A rank of smp that stands still ends the job, and is named with its partition."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from parallel_lab import TESTS, Ended, run_ranks

pytestmark = pytest.mark.slow

PROGRAM = TESTS / "programs" / "smp_faults.py"
PATIENCE = {"CLARY_PARALLEL_PATIENCE": "12"}


@pytest.fixture(scope="module")
def ended() -> dict[str, Ended]:
    """How the programs ended, by their case: they mostly wait, so they do it at once."""
    cases = ("never_steps", "hangs_in_its_partition")
    with ThreadPoolExecutor() as threads:
        runs = [threads.submit(run_ranks, PROGRAM, 2, case, variables=PATIENCE, timeout=150) for case in cases]
        return {case: run.result() for case, run in zip(cases, runs, strict=True)}


def test_a_rank_that_never_calls_its_step_ends_the_job_with_its_name_and_partition(ended: dict[str, Ended]) -> None:
    found = ended["never_steps"]

    assert found.code != 0
    assert "rank 0 waited 12 s" in found.errors
    assert "for rank 1. Rank 1 (partition 1) is alive" in found.errors
    assert "in none of our calls" in found.errors


def test_a_rank_that_hangs_inside_its_step_ends_the_job_with_its_name_and_stage(ended: dict[str, Ended]) -> None:
    found = ended["hangs_in_its_partition"]

    assert found.code != 0
    assert "rank 0 waited 12 s" in found.errors
    assert "B0 of stage 1, which stage 0 needs) for rank 1. Rank 1 (partition 1) is alive" in found.errors
