"""A model that does not fit: it fails under a limit of memory for each process, and trains under it in two parts."""

import pytest

import parallel_lab

pytestmark = pytest.mark.slow

MEMORY = parallel_lab.TESTS / "programs" / "pipeline_memory.py"


def test_a_model_that_does_not_fit_one_process_trains_over_two_under_the_same_limit():
    parallel_lab.assert_does_not_fit_alone(MEMORY, "alone")
    divided = parallel_lab.run_ranks(MEMORY, 2, "divided")

    assert divided.code == 0, divided.errors
    assert sorted(divided.reports) == [0, 1]
    for report in divided.reports.values():
        assert len(report["loss"]) == 2


def test_ranks_let_go_of_the_weights_of_other_stages_of_a_model_that_is_there():
    ended = parallel_lab.run_ranks(MEMORY, 2, "let_go")

    assert ended.code == 0, ended.errors
    assert sorted(ended.reports) == [0, 1]
    for report in ended.reports.values():
        assert report["freed"] > 0.35
        assert report["held"] < 0.7
        assert report["loss"][1] < report["loss"][0]
        assert report["moved"] == 26
    assert sum(report["held"] for report in ended.reports.values()) == pytest.approx(1.0)
