"""What CreateTrainingJob refuses beyond the model's own constraints, with AWS's texts where they are known.

What Clary does not offer is refused as well where leaving it out would silently give another result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from clary.cluster.instance_types import gpus_asked
from clary.images.catalog import resolve
from clary.services.images import check_image
from clary.services.registry import Context
from clary.services.training_defaults import DEFAULT_MAX_RUNTIME_SECONDS
from clary.storage.client import parse_s3_uri
from clary.wire.errors import ValidationError

_NOT_OFFERED = {
    "ServerlessJobConfig": "serverless customization jobs",
    "ModelPackageConfig": "model packages as a job's output",
    "MlflowConfig": "MLflow apps",
}


def check_request(params: Mapping[str, Any]) -> None:
    """All that can be told from the request alone.

    Raises:
        ValidationError: with the first thing that is wrong.
    """
    for member, feature in _NOT_OFFERED.items():
        if member in params:
            raise ValidationError(f"Clary does not offer {feature}. Remove {member} from the request.")
    if params.get("RemoteDebugConfig", {}).get("EnableRemoteDebug"):
        raise ValidationError("Clary does not offer remote debugging. Remove RemoteDebugConfig or set it to false.")
    _check_algorithm(params)
    groups = _check_instances(params.get("ResourceConfig"))
    _check_gpus(params.get("Environment", {}))
    _check_stopping(params)
    _check_channels(params, groups)


async def check_training_image(context: Context, params: Mapping[str, Any]) -> None:
    """That there is an image, and one that can run on as many hosts as are asked for.

    Raises:
        ValidationError: it is not there, or cannot.
    """
    own = await check_image(context, params["AlgorithmSpecification"]["TrainingImage"], params["RoleArn"], resolve)
    resources = params["ResourceConfig"]
    groups = resources.get("InstanceGroups") or [resources]
    hosts = sum(group["InstanceCount"] for group in groups)
    if own is not None and hosts > 1 and not own.engine.joins_networks:
        raise ValidationError(
            f"{own.uri} is an image of your own, and several hosts of such a job need podman run by root, with the "
            f"program ip (iproute2). Use one host, or start Clary as root. Received: {hosts} hosts."
        )


async def check_storage(context: Context, params: Mapping[str, Any]) -> None:
    """That the inputs exist and the outputs have a bucket to go to.

    Raises:
        ValidationError: for the first that is missing.
    """
    for channel in params.get("InputDataConfig", ()):
        uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
        bucket, prefix = _s3(uri, "InputDataConfig")
        if not await context.store.bucket_exists(bucket) or not await context.store.any_object(bucket, prefix):
            raise ValidationError(
                f'No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that the bucket '
                f"exists in the selected region ({context.settings.region}), that objects exist under that S3 prefix, "
                f'and that the role "{params["RoleArn"]}" has "s3:ListBucket" permissions on bucket "{bucket}".'
            )
    uri = params["OutputDataConfig"]["S3OutputPath"]
    bucket, _ = _s3(uri, "OutputDataConfig")
    if not await context.store.bucket_exists(bucket):
        raise ValidationError(
            f'The bucket "{bucket}" of the S3 URL "{uri}" given in OutputDataConfig does not exist. '
            f"Create it first: aws s3 mb s3://{bucket}"
        )


def _check_algorithm(params: Mapping[str, Any]) -> None:
    algorithm = params.get("AlgorithmSpecification")
    if algorithm is None:
        raise ValidationError("AlgorithmSpecification is required. Received: none.")
    if "AlgorithmName" in algorithm:
        raise ValidationError(
            f"Clary has no algorithm resources. Give a TrainingImage instead of AlgorithmName. "
            f"Received: AlgorithmName={algorithm['AlgorithmName']}"
        )
    image = algorithm.get("TrainingImage", "")
    if not image:
        raise ValidationError("You must provide either a TrainingImage or an AlgorithmName in AlgorithmSpecification.")
    if algorithm["TrainingInputMode"] == "Pipe":
        raise _no_pipe_mode("TrainingInputMode")


def _check_instances(resources: Mapping[str, Any] | None) -> list[str]:
    """The names of the instance groups; none for a homogeneous cluster."""
    if resources is None:
        raise ValidationError("ResourceConfig is required. Received: none.")
    if "TrainingPlanArn" in resources or "InstancePreferences" in resources:
        raise ValidationError("Clary has no training plans. Remove TrainingPlanArn and InstancePreferences.")
    groups = resources.get("InstanceGroups")
    if not groups:
        if "InstanceType" not in resources or "InstanceCount" not in resources:
            raise ValidationError("ResourceConfig needs InstanceType and InstanceCount, or InstanceGroups.")
        _check_count(resources["InstanceCount"], "resourceConfig.instanceCount")
        return []
    if "InstanceType" in resources or "InstanceCount" in resources:
        raise ValidationError(
            "ResourceConfig takes either InstanceGroups or InstanceType with InstanceCount. Received: both."
        )
    names = [group["InstanceGroupName"] for group in groups]
    if doubled := _first_double(names):
        raise ValidationError(f"Instance group names must be unique. Received twice: {doubled}")
    for number, group in enumerate(groups, start=1):
        _check_count(group["InstanceCount"], f"resourceConfig.instanceGroups.{number}.member.instanceCount")
    return names


def _check_gpus(environment: Mapping[str, str]) -> None:
    try:
        gpus_asked(environment)
    except ValueError as error:
        raise ValidationError(f"Environment: {error}") from None


def _check_count(count: int, where: str) -> None:
    if count < 1:
        raise ValidationError(
            f"1 validation error detected: Value '{count}' at '{where}' failed to satisfy constraint: "
            "Member must have value greater than or equal to 1"
        )


def _check_stopping(params: Mapping[str, Any]) -> None:
    condition = params.get("StoppingCondition", {})
    runtime = condition.get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_SECONDS)
    wait = condition.get("MaxWaitTimeInSeconds")
    if params.get("EnableManagedSpotTraining"):
        if wait is None or wait < runtime:
            raise ValidationError(
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds"
            )
    elif wait is not None:
        raise ValidationError(
            "MaxWaitTimeInSeconds can only be given when EnableManagedSpotTraining is true. "
            f"Received: MaxWaitTimeInSeconds={wait}"
        )


def _check_channels(params: Mapping[str, Any], groups: Sequence[str]) -> None:
    channels: Sequence[Mapping[str, Any]] = params.get("InputDataConfig", ())
    if doubled := _first_double([channel["ChannelName"] for channel in channels]):
        raise ValidationError(f"Channel names must be unique within a training job. Received twice: {doubled}")
    for channel in channels:
        _check_channel(channel)
    assigned = {
        channel["ChannelName"]: channel["DataSource"]["S3DataSource"].get("InstanceGroupNames") for channel in channels
    }
    having = [name for name, names in assigned.items() if names]
    lacking = [name for name, names in assigned.items() if not names]
    if having and lacking:
        raise ValidationError(
            f"Some channels have assigned instance groups: [{', '.join(having)}] "
            f"while others not: [{', '.join(lacking)}]"
        )
    for name in having:
        unknown = [group for group in assigned[name] or () if group not in groups]
        if unknown:
            raise ValidationError(
                f"Channel {name} names instance groups that ResourceConfig does not have: [{', '.join(unknown)}]. "
                f"Expected some of: [{', '.join(groups)}]"
            )


def _check_channel(channel: Mapping[str, Any]) -> None:
    name, source = channel["ChannelName"], channel["DataSource"].get("S3DataSource")
    if name in (".", ".."):
        raise ValidationError(f"A channel cannot be called {name!r}: its name becomes a folder.")
    if source is None or len(channel["DataSource"]) > 1:
        given = ", ".join(channel["DataSource"]) or "none"
        raise ValidationError(f"Channel {name} needs an S3DataSource; Clary mounts no others. Received: {given}")
    if channel.get("InputMode") == "Pipe":
        raise _no_pipe_mode(f"InputMode of channel {name}")
    if source["S3DataType"] not in ("S3Prefix", "ManifestFile"):
        raise ValidationError(
            f"Channel {name}: Clary reads S3DataType S3Prefix and ManifestFile. Received: {source['S3DataType']}"
        )
    if channel.get("CompressionType", "None") != "None" or channel.get("RecordWrapperType", "None") != "None":
        raise ValidationError(
            f"Channel {name}: CompressionType and RecordWrapperType apply to Pipe mode only. In File mode leave them "
            "unset or set them to None."
        )
    for member in ("ModelAccessConfig", "HubAccessConfig"):
        if member in source:
            raise ValidationError(f"Channel {name}: Clary has no model hub. Remove {member}.")


def _no_pipe_mode(where: str) -> ValidationError:
    return ValidationError(f"Clary does not offer Pipe mode yet. Use File or FastFile. Received: {where}=Pipe")


def _first_double(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _s3(uri: str, where: str) -> tuple[str, str]:
    try:
        return parse_s3_uri(uri)
    except ValueError as error:
        raise ValidationError(f"Invalid S3 URL in {where}: {error}") from None
