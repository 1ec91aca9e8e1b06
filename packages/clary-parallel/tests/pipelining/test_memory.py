"""A model that does not fit: it fails under a limit of memory for each process, and trains under it in two parts."""

import pytest

import parallel_lab

pytestmark = pytest.mark.slow

MEMORY = parallel_lab.TESTS / "programs" / "pipeline_memory.py"


def test_a_model_that_does_not_fit_one_process_trains_over_two_under_the_same_limit():
    alone = parallel_lab.run_ranks(MEMORY, 1, "alone")
    divided = parallel_lab.run_ranks(MEMORY, 2, "divided")

    assert alone.code != 0
    assert not alone.reports
    assert any(words in alone.errors for words in ("bad_alloc", "OOM", "ResourceExhausted", "MemoryError"))
    assert divided.code == 0, divided.errors
    assert sorted(divided.reports) == [0, 1]
    for report in divided.reports.values():
        assert len(report["loss"]) == 2
