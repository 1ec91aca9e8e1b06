"""Endpoint configurations: the operations that create, show and delete them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from clary.services.endpoint_validation import check_config, variants_of
from clary.services.listing import Listing
from clary.services.models import model_not_found
from clary.services.registry import Answer, Context, in_thread, operation
from clary.services.tags import check_tags, taggable
from clary.state import tags
from clary.state.database import now, table_of
from clary.state.endpoint_configs import EndpointConfig, find_endpoint_config
from clary.state.models import find_models
from clary.wire.errors import ValidationError

KIND = "endpoint-config"
_CONFIGS = table_of(EndpointConfig).c
_LISTING = Listing(
    sort_keys={"Name": _CONFIGS.name, "CreationTime": _CONFIGS.creation_time},
    tie=_CONFIGS.id,
)


def _exists(session: Session, arn: str) -> bool:
    config = find_endpoint_config(session, arn.rsplit("/", 1)[-1])
    return config is not None and config.arn == arn


taggable(KIND, _exists)


@operation(
    "sagemaker",
    accepted_without_effect=(
        "DataCaptureConfig.KmsKeyId",
        "KmsKeyId",
        "ProductionVariants.InferenceAmiVersion",
        "ProductionVariants.RoutingConfig",
        "ProductionVariants.VariantInstanceProvisionTimeoutInSeconds",
        "ProductionVariants.VolumeSizeInGB",
    ),
)
@in_thread
def create_endpoint_config(context: Context, params: dict[str, Any]) -> Answer:
    """Check the variants and that their models exist, then record the configuration."""
    check_tags(params.get("Tags", ()))
    check_config(params)
    name = params["EndpointConfigName"]
    arn = context.settings.arn(f"{KIND}/{name}")
    wanted = {variant["ModelName"] for variant in variants_of(params)}
    request = {member: value for member, value in params.items() if member != "Tags"}
    for variant in variants_of(request):
        variant.setdefault("InitialInstanceCount", 1)
        variant.setdefault("InitialVariantWeight", 1.0)
    try:
        with context.database.transaction() as session:
            if find_endpoint_config(session, name) is not None:
                raise _name_taken(arn)
            missing = sorted(wanted - find_models(session, wanted).keys())
            if missing:
                raise model_not_found(context, missing[0])
            session.add(EndpointConfig(name=name, arn=arn, creation_time=now(), request=request))
            session.flush()
            tags.put(session, arn, params.get("Tags", ()))
    except IntegrityError:
        raise _name_taken(arn) from None
    return {"EndpointConfigArn": arn}


@operation("sagemaker")
def describe_endpoint_config(context: Context, params: dict[str, Any]) -> Answer:
    with context.database.reading() as session:
        config = find_endpoint_config(session, params["EndpointConfigName"])
    if config is None:
        raise config_not_found(context, params["EndpointConfigName"])
    return {
        **config.request,
        "EndpointConfigArn": config.arn,
        "CreationTime": config.creation_time,
        "EnableNetworkIsolation": config.request.get("EnableNetworkIsolation", False),
    }


@operation("sagemaker")
def list_endpoint_configs(context: Context, params: dict[str, Any]) -> Answer:
    page = _LISTING.page(context.database, [_CONFIGS.name, _CONFIGS.arn, _CONFIGS.creation_time], params)
    summaries = [
        {"EndpointConfigName": row[0], "EndpointConfigArn": row[1], "CreationTime": row[2]} for row in page.rows
    ]
    return {"EndpointConfigs": summaries, **page.token_field()}


@operation("sagemaker")
@in_thread
def delete_endpoint_config(context: Context, params: dict[str, Any]) -> Answer:
    """Forget a configuration. Endpoints that were made with it have a copy and serve on."""
    name = params["EndpointConfigName"]
    with context.database.transaction() as session:
        found = delete(EndpointConfig).where(EndpointConfig.name == name).returning(EndpointConfig.arn)
        gone = session.scalars(found).all()
        for arn in gone:
            tags.remove_all(session, arn)
    if not gone:
        raise config_not_found(context, name)
    return {}


def config_not_found(context: Context, name: str) -> ValidationError:
    """What every operation answers that is given the name of a configuration that is not there."""
    return ValidationError(f'Could not find endpoint configuration "{context.settings.arn(f"{KIND}/{name}")}".')


def _name_taken(arn: str) -> ValidationError:
    return ValidationError(f'Cannot create already existing endpoint configuration "{arn}".')
