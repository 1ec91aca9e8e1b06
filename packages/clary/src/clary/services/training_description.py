"""Training jobs as DescribeTrainingJob and ListTrainingJobs tell them, straight from the rows of the record."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row
from sqlalchemy.engine import RowMapping

from clary.state.training_jobs import TERMINAL_STATUSES, TrainingJob

_JOBS = TrainingJob.__table__.c
SUMMARISED = [
    _JOBS.name,
    _JOBS.arn,
    _JOBS.status,
    _JOBS.secondary_status,
    _JOBS.creation_time,
    _JOBS.last_modified_time,
    _JOBS.training_end_time,
    _JOBS.warm_pool_status,
]


def describe(row: RowMapping | Mapping[str, Any]) -> dict[str, Any]:
    """DescribeTrainingJob's answer.

    Args:
        row: `state.training_jobs.read_training_job`'s.
    """
    answer: dict[str, Any] = {
        **row["request"],
        "TrainingJobArn": row["arn"],
        "TrainingJobStatus": row["status"],
        "SecondaryStatus": row["secondary_status"],
        "ModelArtifacts": {"S3ModelArtifacts": row["model_artifact"] or ""},
        "CreationTime": row["creation_time"],
        "LastModifiedTime": row["last_modified_time"],
        "SecondaryStatusTransitions": [_transition(transition) for transition in row["transitions"]],
        "ProfilingStatus": "Disabled",
    }
    if row["final_metrics"]:
        answer["FinalMetricDataList"] = [
            {**metric, "Timestamp": _time(metric["Timestamp"])} for metric in row["final_metrics"]
        ]
    if row["failure_reason"]:
        answer["FailureReason"] = row["failure_reason"]
    if row["warm_pool_status"]:
        answer["WarmPoolStatus"] = _warm_pool(row["warm_pool_status"])
    started, ended = row["training_start_time"], row["training_end_time"]
    if started:
        answer["TrainingStartTime"] = started
    if ended:
        answer["TrainingEndTime"] = ended
    if started and row["status"] in TERMINAL_STATUSES:
        # Wall-clock time; the bill multiplies it by the number of instances.
        seconds = max(1, math.ceil((ended - started).total_seconds()))
        answer["TrainingTimeInSeconds"] = answer["BillableTimeInSeconds"] = seconds
    return answer


def summarise(row: Row[*tuple[Any, ...]]) -> dict[str, Any]:
    """One of ListTrainingJobs' summaries.

    Args:
        row: the columns of `SUMMARISED`, in order; what follows them is not looked at.
    """
    name, arn, status, secondary_status, created, modified, ended, warm_pool = row[: len(SUMMARISED)]
    summary: dict[str, Any] = {
        "TrainingJobName": name,
        "TrainingJobArn": arn,
        "CreationTime": created,
        "LastModifiedTime": modified,
        "TrainingJobStatus": status,
        "SecondaryStatus": secondary_status,
    }
    if ended:
        summary["TrainingEndTime"] = ended
    if warm_pool:
        summary["WarmPoolStatus"] = _warm_pool(warm_pool)
    return summary


def _transition(transition: dict[str, Any]) -> dict[str, Any]:
    told = {**transition, "StartTime": _time(transition["StartTime"])}
    if "EndTime" in transition:
        told["EndTime"] = _time(transition["EndTime"])
    return told


def _warm_pool(status: str) -> dict[str, Any]:
    """Instances are never kept: what a warm pool saves, Clary's cached environments save every job."""
    return {"Status": status} if status == "InUse" else {"Status": status, "ResourceRetainedBillableTimeInSeconds": 0}


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
