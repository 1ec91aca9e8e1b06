"""From a training job's record to what its hosts are told."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any

from clary.cluster.base import Node
from clary.cluster.instance_types import gpus_asked, notices_for
from clary.front.credentials import CredentialStore, TemporaryCredentials
from clary.host.spec import Channel, Checkpoint, HostSpec, Limits, MetricDefinition, Output, Peer
from clary.lifecycle.tokens import LAUNCH_TOKEN, launch_token
from clary.settings import DEFAULT_ROLE_NAME, Settings
from clary.state.training_jobs import TrainingHost, TrainingJob
from clary.storage.access import StoreAccess

DEFAULT_GROUP = "homogeneousCluster"
METRICS_DIRECTORY = "/opt/ml/output/metrics/sagemaker"
_CREDENTIALS_BEYOND_RUNTIME = dt.timedelta(hours=12)  # downloads before, uploads after, a machine that sleeps
_GIB = 1024**3

# Files of /opt/ml/input/config that hold a member of the request as it is, with the LocalPath that AWS fills in.
_CONFIG_FILES = {
    "debughookconfig.json": ("DebugHookConfig", "/opt/ml/output/tensors"),
    "profilerconfig.json": ("ProfilerConfig", "/opt/ml/output/profiler"),
    "tensorboardoutputconfig.json": ("TensorBoardOutputConfig", "/opt/ml/output/tensorboard"),
    "checkpointconfig.json": ("CheckpointConfig", "/opt/ml/checkpoints"),
}


def instance_types_of(request: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The (instance type, group name) of each host in order: algo-1, algo-2, …"""
    resources = request["ResourceConfig"]
    groups = resources.get("InstanceGroups")
    if groups:
        return [
            (group["InstanceType"], group["InstanceGroupName"])
            for group in groups
            for _ in range(group["InstanceCount"])
        ]
    return [(resources["InstanceType"], DEFAULT_GROUP)] * resources["InstanceCount"]


def host_spec(
    job: TrainingJob,
    host: TrainingHost,
    hosts: Sequence[TrainingHost],
    *,
    token: str,
    nodes: Sequence[Node],
    settings: Settings,
    credentials: CredentialStore,
    store: StoreAccess | None,
) -> HostSpec:
    """Everything that one host needs to know; keys for the job are issued with it.

    Args:
        job: the job's row.
        host: the row of this host.
        hosts: the rows of all hosts of this attempt, in order.
        token: what the host signs its reports with.
        nodes: the machines, for the notices about hardware that is missing.
        store: how hosts reach the store; None for by way of the server, with the job's own keys.
    """
    request: dict[str, Any] = job.request
    algorithm = request["AlgorithmSpecification"]
    runtime = int(request["StoppingCondition"]["MaxRuntimeInSeconds"])
    keys = _job_keys(job, settings, credentials, dt.timedelta(seconds=runtime))
    return HostSpec(
        host_id=host.host_id,
        job_name=job.name,
        job_arn=job.arn,
        attempt=job.attempt,
        host=host.name,
        peers=tuple(
            Peer(name=peer.name, instance_type=peer.instance_type, instance_group=peer.instance_group) for peer in hosts
        ),
        image=algorithm["TrainingImage"],
        arguments=tuple(algorithm.get("ContainerArguments", ())),
        entrypoint=tuple(algorithm.get("ContainerEntrypoint", ())),
        environment=_environment(job, settings, credentials, keys, several=len(hosts) > 1),
        hyperparameters=request.get("HyperParameters", {}),
        input_mode=algorithm["TrainingInputMode"],
        channels=tuple(
            _channel(channel, algorithm["TrainingInputMode"])
            for channel in request.get("InputDataConfig", ())
            if _is_for_group(channel, host.instance_group)
        ),
        config_files=_config_files(request),
        limits=Limits(
            cpus=host.cpus,
            memory_bytes=host.memory_bytes,
            gpu_indices=tuple(host.gpu_indices),
            disk_bytes=_disk_bytes(request),
            max_runtime_seconds=runtime,
            stop_grace_seconds=settings.stop_grace_seconds,
        ),
        output=_output(job),
        checkpoint=_checkpoint(request),
        tensorboard=_tensorboard(request, job.name),
        metric_definitions=tuple(
            MetricDefinition(name=metric["Name"], regex=metric["Regex"])
            for metric in algorithm.get("MetricDefinitions", ())
        ),
        network_isolation=bool(request.get("EnableNetworkIsolation")),
        notices=notices_for(host.instance_type, nodes) + _notices(request),
        store=store or _by_way_of_the_server(settings, keys),
        report_url=f"{settings.url_for_hosts}/_clary/hosts/{host.host_id}/report",
        report_token=token,
        images_home=str(settings.home / "images"),
    )


def _job_keys(
    job: TrainingJob, settings: Settings, credentials: CredentialStore, runtime: dt.timedelta
) -> TemporaryCredentials:
    """Keys that end with the job and touch nothing of other jobs."""
    role = str(job.request["RoleArn"]).rpartition("/")[2] or DEFAULT_ROLE_NAME
    return credentials.issue(
        f"arn:aws:sts::{settings.account_id}:assumed-role/{role}/SageMaker",
        runtime + _CREDENTIALS_BEYOND_RUNTIME,
        job_name=job.name,
    )


def _by_way_of_the_server(settings: Settings, keys: TemporaryCredentials) -> StoreAccess:
    """The S3 that every client sees, for a host that does not reach the store itself."""
    return StoreAccess(
        endpoint=settings.url_for_hosts,
        access_key=keys.access_key,
        secret_key=keys.secret_key,
        session_token=keys.session_token,
        region=settings.region,
    )


def _environment(
    job: TrainingJob, settings: Settings, credentials: CredentialStore, keys: TemporaryCredentials, *, several: bool
) -> dict[str, str]:
    platform = {
        "TRAINING_JOB_NAME": job.name,
        "TRAINING_JOB_ARN": job.arn,
        "AWS_REGION": settings.region,
        "AWS_DEFAULT_REGION": settings.region,
        "AWS_ENDPOINT_URL": settings.url_for_hosts,
        "S3_ENDPOINT_URL": settings.url_for_hosts,  # what AWS's training toolkit reads
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.session_token,
        "SAGEMAKER_METRICS_DIRECTORY": METRICS_DIRECTORY,
    }
    if several:
        platform[LAUNCH_TOKEN] = launch_token(credentials, job.name, job.attempt)
    if 0 < (gpus_asked(job.request.get("Environment", {})) or 0) < 1:
        platform["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # it takes a whole GPU's memory otherwise
    return {**platform, **job.request.get("Environment", {})}


def _is_for_group(channel: Mapping[str, Any], group: str) -> bool:
    names = channel["DataSource"]["S3DataSource"].get("InstanceGroupNames")
    return not names or group in names


def _channel(channel: Mapping[str, Any], job_mode: str) -> Channel:
    source = channel["DataSource"]["S3DataSource"]
    return Channel(
        name=channel["ChannelName"],
        data_type=source["S3DataType"],
        s3_uri=source["S3Uri"],
        distribution=source.get("S3DataDistributionType", "FullyReplicated"),
        input_mode=channel.get("InputMode", job_mode),
        content_type=channel.get("ContentType"),
        compression=channel.get("CompressionType", "None"),
        record_wrapper=channel.get("RecordWrapperType", "None"),
        shuffle_seed=channel.get("ShuffleConfig", {}).get("Seed"),
        attribute_names=tuple(source.get("AttributeNames", ())),
    )


def _config_files(request: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: json.dumps({"LocalPath": local_path, **request[member]})
        for name, (member, local_path) in _CONFIG_FILES.items()
        if request.get(member)
    }


def _output(job: TrainingJob) -> Output:
    config = job.request["OutputDataConfig"]
    prefix = f"{str(config['S3OutputPath']).rstrip('/')}/{job.name}/output"
    compression = config["CompressionType"]
    return Output(
        model_uri=f"{prefix}/model.tar.gz" if compression == "GZIP" else f"{prefix}/model/",
        output_uri=f"{prefix}/output.tar.gz",
        compression=compression,
        kms_key_id=config["KmsKeyId"],
        staging_uri=f"{prefix}/.staging-{job.attempt}/",
    )


def _checkpoint(request: Mapping[str, Any]) -> Checkpoint | None:
    config = request.get("CheckpointConfig")
    if not config:
        return None
    return Checkpoint(s3_uri=config["S3Uri"], local_path=config.get("LocalPath", "/opt/ml/checkpoints"))


def _tensorboard(request: Mapping[str, Any], job_name: str) -> Checkpoint | None:
    config = request.get("TensorBoardOutputConfig")
    if not config:
        return None
    return Checkpoint(
        s3_uri=f"{str(config['S3OutputPath']).rstrip('/')}/{job_name}/tensorboard-output/",
        local_path=config.get("LocalPath", "/opt/ml/output/tensorboard"),
    )


def _disk_bytes(request: Mapping[str, Any]) -> int | None:
    size = request["ResourceConfig"].get("VolumeSizeInGB")
    return size * _GIB if size else None


def _notices(request: Mapping[str, Any]) -> tuple[str, ...]:
    """What the request asks for and does not get, said where the user looks."""
    notices: list[str] = []
    if request.get("DebugRuleConfigurations") or request.get("ProfilerRuleConfigurations"):
        notices.append("The job's Debugger and Profiler rules are recorded but not evaluated.")
    return tuple(notices)
