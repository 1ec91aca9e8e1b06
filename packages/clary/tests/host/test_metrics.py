"""Metrics that a job prints."""

from __future__ import annotations

from clary.host.metrics import MetricFinder
from clary.host.spec import MetricDefinition


def _found(regex: str, *lines: str) -> list[float]:
    finder = MetricFinder([MetricDefinition(name="m", regex=regex)])
    return [point["value"] for point in finder.find([(0, line) for line in lines])]


def test_the_first_group_of_the_first_match_counts() -> None:
    assert _found("loss: ([0-9.]+)", "loss: 0.5 val_loss: 0.7", "nothing", "loss: .") == [0.5]


def test_each_state_of_a_progress_bar_counts() -> None:
    assert _found("acc=([0-9.eE+-]+)", "acc=0.1\racc=2e-1\racc=0.3") == [0.1, 0.2, 0.3]


def test_an_expression_that_is_not_valid_is_named() -> None:
    finder = MetricFinder([MetricDefinition(name="bad", regex="("), MetricDefinition(name="good", regex="(1)")])
    assert "'bad'" in finder.notices[0]
    assert len(finder.find([(0, "1")])) == 1


def test_an_expression_that_takes_for_ever_is_given_up() -> None:
    finder = MetricFinder([MetricDefinition(name="slow", regex="(x+x+)+y")])
    for _ in range(5):
        finder.find([(0, "x" * 3000)])
    assert "'slow'" in finder.notices[0]
