"""What hosts report is recorded once, in order, and answered with their orders."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select

from clary.host.spec import Ending, HostOrders, HostReport, LogLine, MetricPoint, Phase, PhaseChange
from clary.services.host_reports import TRAINING_LOG_GROUP, receive
from clary.state import changes, metrics
from clary.state.database import Database
from clary.state.logs import LogEvent
from clary.state.training_jobs import TrainingHost, TrainingJob
from clary.wire.errors import AwsError

NOW = dt.datetime.now(dt.UTC)
NOW_MS = int(NOW.timestamp() * 1000)

pytestmark = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def host(add_job: Callable[..., TrainingJob], add_host: Callable[..., str]) -> str:
    return add_host(add_job("job"))


def _lines(first: int, end: int) -> tuple[LogLine, ...]:
    return tuple(LogLine(sequence=n, timestamp_ms=NOW_MS + n, message=f"line {n}") for n in range(first, end))


def _phases(*phases: Phase) -> tuple[PhaseChange, ...]:
    return tuple(PhaseChange(phase=phase, timestamp=NOW) for phase in phases)


def _report(host: str, **fields: Any) -> HostReport:
    return HostReport(host_id=host, **{"phases": _phases(Phase.STARTING)} | fields)


def _logged(clients: Callable[[str], Any], stream: str = "job/algo-1-") -> list[str]:
    client = clients("logs")
    answer = client.filter_log_events(logGroupName=TRAINING_LOG_GROUP, logStreamNamePrefix=stream)
    return [event["message"] for event in answer["events"]]


def _change(database: Database, host: str, **values: Any) -> None:
    with database.transaction() as session:
        for name, value in values.items():
            setattr(session.get_one(TrainingHost, host), name, value)


def test_lines_are_recorded_once_however_often_they_are_sent(
    database: Database, host: str, clients: Callable[[str], Any]
) -> None:
    assert receive(database, host, "secret", _report(host, logs=_lines(0, 3))).logs_received == 3
    assert receive(database, host, "secret", _report(host, logs=_lines(0, 3))).logs_received == 3
    assert receive(database, host, "secret", _report(host, logs=_lines(1, 5))).logs_received == 5
    assert _logged(clients) == [f"line {number}" for number in range(5)]


def test_a_gap_is_not_recorded_but_asked_for_again(
    database: Database, host: str, clients: Callable[[str], Any]
) -> None:
    receive(database, host, "secret", _report(host, logs=_lines(0, 2)))
    assert receive(database, host, "secret", _report(host, logs=_lines(4, 6))).logs_received == 2
    assert receive(database, host, "secret", _report(host, logs=_lines(2, 6))).logs_received == 6
    assert len(_logged(clients)) == 6


def test_lines_stay_in_order_when_the_hosts_clock_is_set_back(
    database: Database, host: str, clients: Callable[[str], Any]
) -> None:
    for number, offset in enumerate((100, 50, 70, 120)):
        line = LogLine(sequence=number, timestamp_ms=NOW_MS + offset, message=str(number))
        receive(database, host, "secret", _report(host, logs=(line,)))
    assert _logged(clients) == ["0", "1", "2", "3"]


def test_attempts_of_a_host_have_streams_of_their_own(
    database: Database, add_job: Callable[..., TrainingJob], add_host: Callable[..., str], clients: Callable[[str], Any]
) -> None:
    job = add_job("job")
    for host in (add_host(job, attempt=1), add_host(job, attempt=2)):
        receive(database, host, "secret", _report(host, logs=_lines(0, 2)))
    streams = clients("logs").describe_log_streams(logGroupName=TRAINING_LOG_GROUP, logStreamNamePrefix="job/")
    assert len(streams["logStreams"]) == 2
    assert len(_logged(clients)) == 4


def test_metrics_go_to_the_job_and_readings_to_the_host(
    database: Database, host: str, clients: Callable[[str], Any]
) -> None:
    points = (
        MetricPoint(sequence=0, name="loss", value=0.5, timestamp=NOW),
        MetricPoint(sequence=1, name="CPUUtilization", value=80, timestamp=NOW, instance=True),
        MetricPoint(sequence=2, name="loss", value=0.25, timestamp=NOW),
    )
    for _ in range(2):
        assert receive(database, host, "secret", _report(host, metrics=points)).metrics_received == 3
    listed = clients("cloudwatch").list_metrics(Namespace="/aws/sagemaker/TrainingJobs")["Metrics"]
    assert {metric["MetricName"]: metric["Dimensions"] for metric in listed} == {
        "loss": [{"Name": "TrainingJobName", "Value": "job"}],
        "CPUUtilization": [{"Name": "Host", "Value": "job/algo-1"}],
    }
    (found,) = clients("cloudwatch").get_metric_statistics(
        Namespace="/aws/sagemaker/TrainingJobs",
        MetricName="loss",
        Dimensions=[{"Name": "TrainingJobName", "Value": "job"}],
        StartTime=NOW - dt.timedelta(minutes=1),
        EndTime=NOW + dt.timedelta(minutes=1),
        Period=60,
        Statistics=["SampleCount"],
    )["Datapoints"]
    assert found["SampleCount"] == 2
    with database.reading() as session:
        assert [(one.name, one.value) for one in metrics.final_values(session, "job")] == [("loss", 0.25)]


def test_orders_are_those_of_the_row(database: Database, host: str) -> None:
    report = _report(host, phases=_phases(Phase.STARTING, Phase.READY))
    assert receive(database, host, "secret", report) == HostOrders()
    _change(database, host, start_ordered=True, wanted="stop", merge_ordered=True)
    assert receive(database, host, "secret", report) == HostOrders(wanted="stop", start=True, merge=True)


def test_the_controllers_hear_of_new_phases_and_endings_only(database: Database, host: str) -> None:
    heard: list[tuple[str, str]] = []
    stop = changes.listen(database, lambda kind, name: heard.append((kind, name)))
    report = _report(host, phases=_phases(Phase.STARTING, Phase.TRAINING), logs=_lines(0, 1))
    for _ in range(3):
        receive(database, host, "secret", report)
    assert heard == [("training-job", "job")]
    ending = Ending(cause="ScriptFailed", exit_code=1)
    ended = _report(host, phases=_phases(Phase.STARTING, Phase.TRAINING, Phase.ENDED), ending=ending)
    for _ in range(2):
        assert receive(database, host, "secret", ended).ending_received
    assert heard == [("training-job", "job")] * 2
    late = _report(host, phases=report.phases, ending=Ending(cause="Completed"))
    receive(database, host, "secret", late)
    stop()
    with database.reading() as session:
        row = session.get_one(TrainingHost, host)
        assert row.phase == "Ended"
        assert row.ending is not None
        assert row.ending["cause"] == "ScriptFailed"


@pytest.mark.parametrize(("address", "token"), [("host", "wrong"), ("another", "secret"), ("host", "")])
def test_a_report_needs_the_token_of_its_own_host(database: Database, host: str, address: str, token: str) -> None:
    with pytest.raises(AwsError) as caught:
        receive(database, host if address == "host" else address, token, _report(host, logs=_lines(0, 1)))
    assert caught.value.status == 403
    assert database.query(select(func.count()).select_from(LogEvent)) == [(0,)]


def test_a_host_whose_job_was_deleted_is_told_to_abort(database: Database) -> None:
    orders = receive(database, "gone", "any", _report("gone", logs=_lines(0, 4), ending=Ending(cause="Completed")))
    assert orders == HostOrders(wanted="abort", ending_received=True, logs_received=4)


def test_many_hosts_report_at_once_without_losing_a_line(
    database: Database, add_job: Callable[..., TrainingJob], add_host: Callable[..., str]
) -> None:
    job = add_job("job")
    hosts = [add_host(job, position) for position in range(8)]

    def work(host: str) -> None:
        for start in range(0, 200, 20):
            receive(database, host, "secret", _report(host, logs=_lines(start, start + 20)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, hosts))
    assert database.query(select(func.count()).select_from(LogEvent)) == [(8 * 200,)]
