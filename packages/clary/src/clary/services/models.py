"""Models: the operations that create, show and delete them. Their containers run when an endpoint serves them."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from clary.services.listing import Listing
from clary.services.model_validation import check_model_data, check_model_images, check_request
from clary.services.registry import Answer, Context, in_thread, operation
from clary.services.tags import check_tags, taggable
from clary.state import tags
from clary.state.database import now, table_of
from clary.state.models import Model, find_model
from clary.wire.errors import ValidationError

KIND = "model"
_MODELS = table_of(Model).c
_LISTING = Listing(
    sort_keys={"Name": _MODELS.name, "CreationTime": _MODELS.creation_time},
    tie=_MODELS.id,
)


def _exists(session: Session, arn: str) -> bool:
    model = find_model(session, arn.rsplit("/", 1)[-1])
    return model is not None and model.arn == arn


taggable(KIND, _exists)


@operation(
    "sagemaker",
    accepted_without_effect=(
        "Containers.ContainerMetricsConfig",
        "Containers.ImageConfig",
        "PrimaryContainer.ContainerMetricsConfig",
        "PrimaryContainer.ImageConfig",
        "VpcConfig",
    ),
)
async def create_model(context: Context, params: dict[str, Any]) -> Answer:
    """Check all that can be checked before the model serves, then record it."""
    check_tags(params.get("Tags", ()))
    check_request(params)
    arn = context.settings.arn(f"{KIND}/{params['ModelName']}")
    with context.database.reading() as session:
        if find_model(session, params["ModelName"]) is not None:
            raise _name_taken(arn)
    await check_model_images(context, params)
    await check_model_data(context, params)
    await asyncio.to_thread(_record, context, params, arn)
    return {"ModelArn": arn}


@operation("sagemaker")
def describe_model(context: Context, params: dict[str, Any]) -> Answer:
    with context.database.reading() as session:
        model = find_model(session, params["ModelName"])
    if model is None:
        raise model_not_found(context, params["ModelName"])
    return {**model.request, "ModelArn": model.arn, "CreationTime": model.creation_time}


@operation("sagemaker")
def list_models(context: Context, params: dict[str, Any]) -> Answer:
    page = _LISTING.page(context.database, [_MODELS.name, _MODELS.arn, _MODELS.creation_time], params)
    summaries = [{"ModelName": row[0], "ModelArn": row[1], "CreationTime": row[2]} for row in page.rows]
    return {"Models": summaries, **page.token_field()}


@operation("sagemaker")
@in_thread
def delete_model(context: Context, params: dict[str, Any]) -> Answer:
    """Forget a model. Endpoints that serve it have a copy of its description; its artifact stays."""
    name = params["ModelName"]
    with context.database.transaction() as session:
        gone = session.scalars(delete(Model).where(Model.name == name).returning(Model.arn)).all()
        for arn in gone:
            tags.remove_all(session, arn)
    if not gone:
        raise model_not_found(context, name)
    return {}


def model_not_found(context: Context, name: str) -> ValidationError:
    """What every operation answers that is given the name of a model that is not there."""
    return ValidationError(f'Could not find model "{context.settings.arn(f"{KIND}/{name}")}".')


def _record(context: Context, params: dict[str, Any], arn: str) -> None:
    request = {name: value for name, value in params.items() if name != "Tags"}
    request.setdefault("EnableNetworkIsolation", False)
    for container in request.get("Containers") or [request["PrimaryContainer"]]:
        container.setdefault("Mode", "SingleModel")
    model = Model(name=params["ModelName"], arn=arn, creation_time=now(), request=request)
    try:
        with context.database.transaction() as session:
            session.add(model)
            session.flush()
            tags.put(session, arn, params.get("Tags", ()))
    except IntegrityError:
        raise _name_taken(arn) from None


def _name_taken(arn: str) -> ValidationError:
    return ValidationError(f'Cannot create already existing model "{arn}".')
