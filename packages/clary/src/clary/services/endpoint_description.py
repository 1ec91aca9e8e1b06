"""Endpoints as DescribeEndpoint tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clary.state.endpoints import Endpoint

_IN_PROGRESS = {"Creating": "Creating", "Updating": "Updating", "RollingBack": "Updating", "Deleting": "Deleting"}


def describe(endpoint: Endpoint) -> dict[str, Any]:
    """DescribeEndpoint's answer.

    Args:
        endpoint: of an open session: its replicas are counted.
    """
    plan = endpoint.serving or endpoint.target
    assert plan is not None  # one is being created, serves, or has failed to be created
    answer: dict[str, Any] = {
        "EndpointName": endpoint.name,
        "EndpointArn": endpoint.arn,
        "EndpointConfigName": plan["config_name"],
        "EndpointStatus": endpoint.status,
        "CreationTime": endpoint.creation_time,
        "LastModifiedTime": endpoint.last_modified_time,
    }
    if endpoint.serving is not None:
        answer |= _variants(endpoint, plan, pending=False)
    if endpoint.target is not None and endpoint.status in ("Creating", "Updating"):
        answer["PendingDeploymentSummary"] = {
            "EndpointConfigName": endpoint.target["config_name"],
            "StartTime": endpoint.target_since,
            **_variants(endpoint, endpoint.target, pending=True),
        }
    if endpoint.failure_reason:
        answer["FailureReason"] = endpoint.failure_reason
    if endpoint.deployment_config:
        answer["LastDeploymentConfig"] = endpoint.deployment_config
    capture = plan["config"].get("DataCaptureConfig")
    if capture:
        enabled = bool(capture.get("EnableCapture"))
        answer["DataCaptureConfig"] = {
            "EnableCapture": enabled,
            "CaptureStatus": "Started" if enabled and endpoint.status == "InService" else "Stopped",
            "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
            "DestinationS3Uri": capture["DestinationS3Uri"],
            "KmsKeyId": capture.get("KmsKeyId", ""),
        }
    return answer


def _variants(endpoint: Endpoint, plan: Mapping[str, Any], *, pending: bool) -> dict[str, Any]:
    told: dict[str, list[dict[str, Any]]] = {}
    for variant in plan["variants"]:
        member = "ShadowProductionVariants" if variant["shadow"] else "ProductionVariants"
        told.setdefault(member, []).append(_variant(endpoint, plan, variant, pending=pending))
    return told


def _variant(
    endpoint: Endpoint, plan: Mapping[str, Any], variant: Mapping[str, Any], *, pending: bool
) -> dict[str, Any]:
    replicas = [
        replica
        for replica in endpoint.replicas
        if replica.generation == plan["generation"] and replica.variant == variant["name"] and not replica.ending
    ]
    serving = sum(replica.ready_time is not None and replica.draining_since is None for replica in replicas)
    model = plan["models"][variant["model"]]
    told: dict[str, Any] = {
        "VariantName": variant["name"],
        "DeployedImages": [
            {"SpecifiedImage": container["Image"], "ResolvedImage": container["Image"]}
            for container in model.get("Containers") or [model["PrimaryContainer"]]
        ],
        "CurrentWeight": variant["weight"],
        "DesiredWeight": variant["desired_weight"],
        "CurrentInstanceCount": serving,
        "DesiredInstanceCount": variant["desired_count"],
    }
    config = next(
        item
        for member in ("ProductionVariants", "ShadowProductionVariants")
        for item in plan["config"].get(member, ())
        if item["VariantName"] == variant["name"]
    )
    if "RoutingConfig" in config:
        told["RoutingConfig"] = config["RoutingConfig"]
    if pending:
        told["InstanceType"] = variant["instance_type"]
        message = endpoint.progress or _last_message([replica.phases for replica in replicas])
        status = _IN_PROGRESS.get(endpoint.status, "Updating")
        if shift := plan.get("shift"):
            status, message = "Baking", f"The new fleet gets {shift['share']:.0%} of the requests."
        told["VariantStatus"] = [{"Status": status, "StatusMessage": message, "StartTime": endpoint.target_since}]
    return told


def _last_message(histories: list[list[Any]]) -> str:
    """What the replicas are doing: the newest phase, with its detail."""
    newest = max(
        (history[-1] for history in histories if history), key=lambda change: change["timestamp"], default=None
    )
    if newest is None:
        return "Starting"
    return f"{newest['phase']}: {newest['message']}"[:1024] if newest.get("message") else str(newest["phase"])
