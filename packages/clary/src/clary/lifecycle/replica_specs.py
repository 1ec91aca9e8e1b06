"""From an endpoint's record to what one of its replicas is told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from clary.cluster.base import Node
from clary.cluster.instance_types import notices_for, serving_resources
from clary.front.credentials import CredentialStore
from clary.host.serving_spec import ModelSource, ReplicaSpec, ServingContainer
from clary.host.spec import Limits
from clary.settings import DEFAULT_ROLE_NAME, Settings
from clary.state.endpoints import Endpoint, EndpointReplica
from clary.storage.access import StoreAccess

DEFAULT_STARTUP_SECONDS = 240
DEFAULT_DOWNLOAD_SECONDS = 3600
_CREDENTIALS_LAST = dt.timedelta(days=365)  # a replica is not told new ones: it serves until it is replaced
_STOP_GRACE_SECONDS = 30


def replica_spec(
    endpoint: Endpoint,
    replica: EndpointReplica,
    *,
    token: str,
    nodes: Sequence[Node],
    settings: Settings,
    credentials: CredentialStore,
    store: StoreAccess,
) -> ReplicaSpec:
    """Everything that one replica needs to know; keys for its model's code are issued with it.

    Args:
        endpoint: the endpoint's row.
        replica: the row of this replica, of one of the endpoint's plans.
        token: what the replica signs its reports with.
        nodes: the machines, for its limits and the notices about hardware that is missing.
    """
    plan = next(plan for plan in (endpoint.target, endpoint.serving) if plan and _is_of(replica, plan))
    variant: Mapping[str, Any] = next(item for item in plan["variants"] if item["name"] == replica.variant)
    config: Mapping[str, Any] = next(
        item
        for member in ("ProductionVariants", "ShadowProductionVariants")
        for item in plan["config"].get(member, ())
        if item["VariantName"] == replica.variant
    )
    model: Mapping[str, Any] = plan["models"][variant["model"]]
    _, limit = serving_resources(replica.instance_type, nodes)
    platform = _platform_environment(endpoint, model, settings, credentials)
    return ReplicaSpec(
        host_id=replica.host_id,
        endpoint_name=endpoint.name,
        endpoint_arn=endpoint.arn,
        variant=replica.variant,
        replica=replica.position,
        instance_type=replica.instance_type,
        containers=tuple(
            _container(definition, number, platform) for number, definition in enumerate(containers_of(model), start=1)
        ),
        direct=model.get("InferenceExecutionConfig", {}).get("Mode") == "Direct",
        limits=Limits(
            cpus=limit.cpus,
            memory_bytes=limit.memory_bytes,
            gpu_indices=tuple(replica.gpu_indices),
            max_runtime_seconds=0,
            stop_grace_seconds=_STOP_GRACE_SECONDS,
        ),
        network_isolation=bool(model.get("EnableNetworkIsolation")),
        startup_seconds=config.get("ContainerStartupHealthCheckTimeoutInSeconds", DEFAULT_STARTUP_SECONDS),
        model_download_seconds=config.get("ModelDataDownloadTimeoutInSeconds", DEFAULT_DOWNLOAD_SECONDS),
        notices=notices_for(replica.instance_type, nodes),
        store=store,
        report_url=f"{settings.url_for_hosts}/_clary/hosts/{replica.host_id}/report",
        report_token=token,
        images_home=str(settings.home / "images"),
    )


def containers_of(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The containers of a model's request, in the order in which they are called."""
    return model.get("Containers") or [model["PrimaryContainer"]]


def _is_of(replica: EndpointReplica, plan: Mapping[str, Any]) -> bool:
    return plan["generation"] == replica.generation


def _container(definition: Mapping[str, Any], number: int, platform: Mapping[str, str]) -> ServingContainer:
    return ServingContainer(
        hostname=definition.get("ContainerHostname") or f"container-{number}",
        image=definition["Image"],
        environment={**platform, **definition.get("Environment", {})},
        model=_model_source(definition),
        mode=definition.get("Mode", "SingleModel"),
        keeps_models=definition.get("MultiModelConfig", {}).get("ModelCacheSetting") != "Disabled",
    )


def _model_source(definition: Mapping[str, Any]) -> ModelSource | None:
    if definition.get("ModelDataUrl"):
        if definition.get("Mode") == "MultiModel":
            return ModelSource(s3_uri=definition["ModelDataUrl"], kind="S3Prefix")
        return ModelSource(s3_uri=definition["ModelDataUrl"])
    source = definition.get("ModelDataSource", {}).get("S3DataSource")
    if source is None:
        return None
    return ModelSource(s3_uri=source["S3Uri"], kind=source["S3DataType"], compression=source["CompressionType"])


def _platform_environment(
    endpoint: Endpoint, model: Mapping[str, Any], settings: Settings, credentials: CredentialStore
) -> dict[str, str]:
    role = str(model.get("ExecutionRoleArn", "")).rpartition("/")[2] or DEFAULT_ROLE_NAME
    keys = credentials.issue(
        f"arn:aws:sts::{settings.account_id}:assumed-role/{role}/SageMaker",
        _CREDENTIALS_LAST,
        job_name=f"endpoint/{endpoint.name}",
    )
    return {
        "AWS_REGION": settings.region,
        "AWS_DEFAULT_REGION": settings.region,
        "AWS_ENDPOINT_URL": settings.url_for_hosts,
        "S3_ENDPOINT_URL": settings.url_for_hosts,
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.session_token,
    }
