"""Metrics are recorded and summed up alike on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from clary.state import metrics
from clary.state.database import Database
from clary.state.metrics import FinalValue, Sample, Statistic, value_sample

JOB = (("TrainingJobName", "job"),)


def _loss(time: int, value: float, *, count: float = 1.0, unit: str = "None") -> Sample:
    return value_sample(metrics.TRAINING_NAMESPACE, "loss", JOB, time, value, count=count, unit=unit)


def _record(database: Database, *samples: Sample) -> None:
    with database.transaction() as session:
        metrics.record(session, samples)


def test_points_are_summed_up_by_period_and_unit(database: Database) -> None:
    _record(database, _loss(0, 1), _loss(59, 3, count=2), _loss(60, 5), _loss(60, 7, unit="Bytes"), _loss(120, 9))
    with database.reading() as session:
        series = metrics.find_series(session, metrics.TRAINING_NAMESPACE, "loss", JOB)
        found = metrics.statistics(session, series, start_ms=0, end_ms=120, period_ms=60)
        values = metrics.weighted_values(session, series, start_ms=0, end_ms=120, period_ms=60)
    assert found == [
        Statistic(0, "None", 3, 7, 1, 3),
        Statistic(1, "Bytes", 1, 7, 7, 7),
        Statistic(1, "None", 1, 5, 5, 5),
    ]
    assert values[0, "None"] == [(1, 1), (3, 2)]


def test_the_final_value_of_each_metric_is_the_last_recorded(database: Database) -> None:
    accuracy = value_sample(metrics.TRAINING_NAMESPACE, "accuracy", JOB, 3, 0.5)
    other = value_sample(metrics.TRAINING_NAMESPACE, "loss", (("TrainingJobName", "job2"),), 9, 100)
    _record(database, _loss(5, 2), _loss(5, 1), _loss(4, 8), accuracy, other)
    with database.reading() as session:
        assert metrics.final_values(session, "job") == [FinalValue("loss", 1, 5), FinalValue("accuracy", 0.5, 3)]
        assert metrics.final_values(session, "nobody") == []


def test_writers_that_meet_make_one_series(database: Database) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: _record(database, _loss(number, 1), _loss(number, 1)), range(12)))
    with database.reading() as session:
        (series,) = metrics.find_series(session, metrics.TRAINING_NAMESPACE, "loss", JOB)
        assert len(metrics.points(session, [series], by_step=False)) == 24


@pytest.mark.parametrize("value", [1e-308, -1e300, 0.1, 2.0**53])
def test_values_are_kept_exactly(database: Database, value: float) -> None:
    _record(database, _loss(0, value))
    with database.reading() as session:
        assert metrics.final_values(session, "job")[0].value == value
