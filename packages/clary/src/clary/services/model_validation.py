"""What CreateModel refuses beyond the shapes' own constraints, with AWS's texts where they are known.

What Clary does not offer is refused as well where leaving it out would silently give another result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from clary.images.catalog import resolve_serving
from clary.images.own import BIND_TO_PORT, MULTI_MODELS, OwnImage
from clary.services.images import check_image
from clary.services.registry import Context
from clary.storage.client import parse_s3_uri
from clary.wire.errors import ValidationError

_NOT_OFFERED = {
    "ModelPackageName": "model packages",
    "InferenceSpecificationName": "model packages",
    "AdditionalModelDataSources": "additional model data sources",
}
_SOURCE_NOT_OFFERED = {
    "HubAccessConfig": "a model hub",
    "ManifestS3Uri": "manifests of model data",
}


def check_request(params: Mapping[str, Any]) -> None:
    """All that can be told from the request alone.

    Raises:
        ValidationError: with the first thing that is wrong.
    """
    primary, containers = params.get("PrimaryContainer"), params.get("Containers") or []
    if bool(primary) == bool(containers):
        given = "both" if primary else "neither"
        raise ValidationError(f"A model needs either PrimaryContainer or Containers. Received: {given}.")
    if primary is not None and "InferenceExecutionConfig" in params:
        raise ValidationError("InferenceExecutionConfig applies to a model with several Containers.")
    for container in containers or [primary]:
        _check_container(container)
    _check_hostnames(params, containers)


async def check_model_data(context: Context, params: Mapping[str, Any]) -> None:
    """That the models' artifacts are there.

    Raises:
        ValidationError: for the first that is not.
    """
    for container in params.get("Containers") or [params["PrimaryContainer"]]:
        uri = _model_uri(container)
        if uri is None:
            continue
        try:
            bucket, key = parse_s3_uri(uri)
        except ValueError as error:
            raise ValidationError(f"Invalid S3 URL of model data: {error}") from None
        # The objects of a multi-model endpoint may come later.
        if container.get("Mode") == "MultiModel" and await context.store.bucket_exists(bucket):
            continue
        if not await context.store.bucket_exists(bucket) or not await context.store.any_object(bucket, key):
            raise ValidationError(
                f"Could not access model data at {uri}. Please ensure that the role "
                f'"{params.get("ExecutionRoleArn", "none")}" exists and that its trust relationship policy allows the '
                'action "sts:AssumeRole" for the service principal "sagemaker.amazonaws.com". Also ensure that the '
                'role has "s3:GetObject" permissions and that the object is located in '
                f"{context.settings.region}."
            )


async def check_model_images(context: Context, params: Mapping[str, Any]) -> None:
    """That there is every image, and that those of the user's own can do what they are asked for.

    Raises:
        ValidationError: for the first that is not there or cannot.
    """
    role, containers = params.get("ExecutionRoleArn", "none"), params.get("Containers") or [params["PrimaryContainer"]]
    for container in containers:
        own = await check_image(context, container["Image"], role, resolve_serving)
        if own is None:
            continue
        if container.get("Mode") == "MultiModel":
            _check_label(own, MULTI_MODELS)
        if len(containers) > 1:
            _check_label(own, BIND_TO_PORT)


def _check_label(image: OwnImage, label: str) -> None:
    if image.labels.get(label, "").lower() != "true":
        raise ValidationError(f"Your Ecr Image {image.uri} does not contain required {label}=true Docker label(s).")


def _check_container(container: Mapping[str, Any]) -> None:
    for member, feature in _NOT_OFFERED.items():
        if container.get(member):
            raise ValidationError(f"Clary does not offer {feature}. Remove {member} from the container.")
    if not container.get("Image"):
        raise ValidationError("A container needs an Image. Received: none.")
    if container.get("ImageConfig", {}).get("RepositoryAccessMode", "Platform") != "Platform":
        raise ValidationError("Clary does not offer private registries in a VPC. Remove ImageConfig.")
    if container.get("ModelDataUrl") and container.get("ModelDataSource"):
        raise ValidationError("A container takes either ModelDataUrl or ModelDataSource. Received: both.")
    source = container.get("ModelDataSource", {}).get("S3DataSource")
    if "ModelDataSource" in container and source is None:
        raise ValidationError("ModelDataSource needs an S3DataSource. Received: none.")
    for member, feature in _SOURCE_NOT_OFFERED.items():
        if source and source.get(member):
            raise ValidationError(f"Clary does not offer {feature}. Remove {member} from ModelDataSource.")
    _check_mode(container)


def _check_mode(container: Mapping[str, Any]) -> None:
    uri = container.get("ModelDataUrl")
    if container.get("Mode", "SingleModel") == "MultiModel":
        if not uri:
            raise ValidationError(
                "A container whose Mode is MultiModel needs a ModelDataUrl: the S3 prefix below which its models lie."
            )
        return
    if "MultiModelConfig" in container:
        raise ValidationError("MultiModelConfig applies to containers whose Mode is MultiModel.")
    if uri and not uri.endswith(".tar.gz"):
        raise ValidationError(
            f"ModelDataUrl must name a .tar.gz archive; for other model data use ModelDataSource. Received: {uri}"
        )


def _check_hostnames(params: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]) -> None:
    names = [
        container.get("ContainerHostname") or f"container-{number}"
        for number, container in enumerate(containers, start=1)
    ]
    doubled = next((name for name, count in Counter(names).items() if count > 1), None)
    if doubled:
        raise ValidationError(f"Container hostnames must be unique within a model. Received twice: {doubled}")
    if params.get("InferenceExecutionConfig", {}).get("Mode") != "Direct":
        return
    if not all(container.get("ContainerHostname") for container in containers):
        raise ValidationError(
            "Each container of a model whose InferenceExecutionConfig.Mode is Direct needs a ContainerHostname."
        )


def _model_uri(container: Mapping[str, Any]) -> str | None:
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    return container.get("ModelDataUrl") or source.get("S3Uri")
