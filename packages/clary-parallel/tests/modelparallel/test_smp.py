"""Programs written for SageMaker's model parallel library run over ranks, and train as one process does."""

from __future__ import annotations

import re
import tempfile

import pytest

from parallel_lab import TESTS, Ended, run_ranks

pytestmark = pytest.mark.slow

PROGRAMS = TESTS / "programs"
CALLS = re.findall(r"@case\ndef (\w+)", (PROGRAMS / "smp_calls.py").read_text())
PINNED = re.findall(r"@case\ndef (\w+)", (PROGRAMS / "smp_pinned.py").read_text())
PARAMETERS = (
    '{"partitions": 2, "microbatches": 2, "pipeline": "simple", "placement_strategy": "spread", "horovod": true, '
    '"auto_partition": false, "default_partition": 0}'
)


@pytest.fixture(scope="module")
def all_calls() -> Ended:
    with tempfile.TemporaryDirectory() as folder:
        return run_ranks(PROGRAMS / "smp_calls.py", 2, "interleaved", folder, timeout=280)


@pytest.fixture(scope="module")
def pinned() -> Ended:
    return run_ranks(PROGRAMS / "smp_pinned.py", 4, variables={"SM_HP_MP_PARAMETERS": PARAMETERS}, timeout=280)


def passed(ended: Ended, name: str, ranks: int) -> None:
    assert sorted(ended.reports) == list(range(ranks)), ended.errors
    assert [report.get(name, ended.errors) for report in ended.reports.values()] == [None] * ranks


@pytest.mark.parametrize("name", CALLS)
def test_each_call_does_what_the_library_says(name: str, all_calls: Ended) -> None:
    passed(all_calls, name, 2)


@pytest.mark.parametrize("name", PINNED)
def test_manual_partitions_in_replicas_on_the_simple_pipeline(name: str, pinned: Ended) -> None:
    passed(pinned, name, 4)


def test_too_few_ranks_are_told_how_many() -> None:
    program = 'import smdistributed.modelparallel.tensorflow as smp\nsmp.init({"partitions": 3})\n'
    ended = run_ranks(program, 2)
    assert ended.code != 0
    assert "2 ranks cannot hold whole replicas of 3 partitions. Start a multiple of 3 ranks." in ended.errors
