"""What AWS fills into a CreateTrainingJob request that leaves it out: Describe shows it, hosts are started with it."""

from __future__ import annotations

import datetime as dt
from typing import Any

DEFAULT_MAX_RUNTIME_SECONDS = 86400


def with_defaults(params: dict[str, Any]) -> dict[str, Any]:
    """The request as it is recorded: without its tags, with every default that clients rely on to be shown.

    `Estimator.attach` fails without OutputDataConfig.KmsKeyId, `TrainingJobAnalytics` without MetricDefinitions.
    """
    request = {name: value for name, value in params.items() if name != "Tags"}
    request["AlgorithmSpecification"] = {
        "MetricDefinitions": [],
        "EnableSageMakerMetricsTimeSeries": False,
        **params["AlgorithmSpecification"],
    }
    request["OutputDataConfig"] = {"KmsKeyId": "", "CompressionType": "GZIP", **params["OutputDataConfig"]}
    request["StoppingCondition"] = {
        "MaxRuntimeInSeconds": DEFAULT_MAX_RUNTIME_SECONDS,
        **params.get("StoppingCondition", {}),
    }
    request.setdefault("HyperParameters", {})
    for switch in ("EnableNetworkIsolation", "EnableInterContainerTrafficEncryption", "EnableManagedSpotTraining"):
        request.setdefault(switch, False)
    if "InputDataConfig" in params:
        request["InputDataConfig"] = [_channel(channel) for channel in params["InputDataConfig"]]
    return request


def queue_deadline(request: dict[str, Any], created: dt.datetime) -> dt.datetime | None:
    """Until when the job may wait for a place: the sooner of MaxPendingTimeInSeconds and MaxWaitTimeInSeconds."""
    condition = request["StoppingCondition"]
    limits = [condition[name] for name in ("MaxPendingTimeInSeconds", "MaxWaitTimeInSeconds") if name in condition]
    return created + dt.timedelta(seconds=min(limits)) if limits else None


def _channel(channel: dict[str, Any]) -> dict[str, Any]:
    source = {"S3DataDistributionType": "FullyReplicated", **channel["DataSource"]["S3DataSource"]}
    return {
        "CompressionType": "None",
        "RecordWrapperType": "None",
        **channel,
        "DataSource": {**channel["DataSource"], "S3DataSource": source},
    }
