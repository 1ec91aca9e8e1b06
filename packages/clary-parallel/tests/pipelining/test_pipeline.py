"""Training over a pipeline of ranks leaves the weights, losses and predictions of training in one process."""

import pytest

import parallel_lab

pytestmark = pytest.mark.slow


def as_one_process(report: dict[str, dict[str, float]]) -> None:
    assert report
    for case, apart in report.items():
        assert apart["moved"] > 1e-4, case
        assert apart["weights"] < 2e-5, case
        assert apart["loss"] < 1e-5, case
        assert apart["predictions"] < 1e-5, case


def test_every_family_of_models_trains_over_two_ranks_as_in_one_process():
    ended = parallel_lab.run_ranks(parallel_lab.TESTS / "programs" / "pipeline_families.py", 2, "2", "families")

    assert ended.code == 0, ended.errors
    assert sorted(ended.reports) == [0, 1]
    for report in ended.reports.values():
        assert len(report) == 12
        as_one_process(report)


def test_every_schedule_and_recomputing_train_as_one_process():
    ended = parallel_lab.run_ranks(parallel_lab.TESTS / "programs" / "pipeline_families.py", 2, "2", "schedules")

    assert ended.code == 0, ended.errors
    assert len(ended.reports[0]) == 5
    for report in ended.reports.values():
        as_one_process(report)


def test_losses_of_layers_train_as_in_one_process_by_every_schedule_and_where_there_are_no_others():
    ended = parallel_lab.run_ranks(parallel_lab.TESTS / "programs" / "pipeline_families.py", 2, "2", "regularised")

    assert ended.code == 0, ended.errors
    for report in ended.reports.values():
        assert len(report) == 5
        as_one_process(report)
