"""Endpoints: the operations that create, show, update and delete them. `lifecycle.endpoints` runs them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from clary.services.endpoint_configs import config_not_found
from clary.services.endpoint_description import describe
from clary.services.endpoint_validation import check_deployment, variants_of
from clary.services.listing import Listing
from clary.services.models import model_not_found
from clary.services.registry import Answer, Context, in_thread, operation
from clary.services.tags import check_tags, taggable
from clary.state import changes, tags
from clary.state.database import now, table_of
from clary.state.endpoint_configs import find_endpoint_config
from clary.state.endpoints import Endpoint, changed_variant, find_endpoint
from clary.state.models import find_models
from clary.state.routing import routing_changed
from clary.wire.errors import ValidationError

KIND = "endpoint"
_ENDPOINTS = table_of(Endpoint).c
_LISTING = Listing(
    sort_keys={"Name": _ENDPOINTS.name, "CreationTime": _ENDPOINTS.creation_time, "Status": _ENDPOINTS.status},
    tie=_ENDPOINTS.id,
    equals={"StatusEquals": _ENDPOINTS.status},
    times={"LastModifiedTime": _ENDPOINTS.last_modified_time},
)
_SUMMARISED = [
    _ENDPOINTS.name,
    _ENDPOINTS.arn,
    _ENDPOINTS.creation_time,
    _ENDPOINTS.last_modified_time,
    _ENDPOINTS.status,
]


def _exists(session: Session, arn: str) -> bool:
    endpoint = find_endpoint(session, arn.rsplit("/", 1)[-1])
    return endpoint is not None and endpoint.arn == arn


taggable(KIND, _exists)


@operation("sagemaker")
@in_thread
def create_endpoint(context: Context, params: dict[str, Any]) -> Answer:
    """Record the endpoint with a copy of its configuration and models; the controller takes it from there."""
    check_tags(params.get("Tags", ()))
    check_deployment(params)
    name, at = params["EndpointName"], now()
    arn = context.settings.arn(f"{KIND}/{name}")
    try:
        with context.database.transaction() as session:
            if find_endpoint(session, name) is not None:
                raise _name_taken(arn)
            endpoint = Endpoint(
                name=name,
                arn=arn,
                status="Creating",
                creation_time=at,
                last_modified_time=at,
                target=_plan(context, session, params["EndpointConfigName"], 1),
                target_since=at,
                deployment_config=params.get("DeploymentConfig"),
                generation=1,
            )
            session.add(endpoint)
            session.flush()
            tags.put(session, arn, params.get("Tags", ()))
            routing_changed(session)
    except IntegrityError:
        raise _name_taken(arn) from None
    changes.announce(context.database, KIND, name)
    return {"EndpointArn": arn}


@operation("sagemaker")
def describe_endpoint(context: Context, params: dict[str, Any]) -> Answer:
    with context.database.reading() as session:
        endpoint = find_endpoint(session, params["EndpointName"])
        if endpoint is None:
            raise endpoint_not_found(context, params["EndpointName"])
        return describe(endpoint)


@operation("sagemaker")
def list_endpoints(context: Context, params: dict[str, Any]) -> Answer:
    page = _LISTING.page(context.database, _SUMMARISED, params)
    summaries = [
        {
            "EndpointName": row[0],
            "EndpointArn": row[1],
            "CreationTime": row[2],
            "LastModifiedTime": row[3],
            "EndpointStatus": row[4],
        }
        for row in page.rows
    ]
    return {"Endpoints": summaries, **page.token_field()}


@operation("sagemaker")
@in_thread
def update_endpoint(context: Context, params: dict[str, Any]) -> Answer:
    """Record the plan that is to take over; what serves now goes on until all of the new one serves."""
    check_deployment(params)
    name, at = params["EndpointName"], now()
    with context.database.transaction() as session:
        endpoint = _to_be_changed(context, session, name)
        plan = _plan(context, session, params["EndpointConfigName"], endpoint.generation + 1)
        if params.get("RetainAllVariantProperties"):
            excluded = {item["VariantPropertyType"] for item in params.get("ExcludeRetainedVariantProperties", ())}
            plan = _retaining(plan, endpoint.serving or plan, excluded)
        endpoint.target, endpoint.target_since = plan, at
        endpoint.generation = plan["generation"]
        if not params.get("RetainDeploymentConfig"):
            endpoint.deployment_config = params.get("DeploymentConfig")
        _set_updating(session, endpoint, at)
        arn = endpoint.arn
    changes.announce(context.database, KIND, name)
    return {"EndpointArn": arn}


@operation("sagemaker")
@in_thread
def update_endpoint_weights_and_capacities(context: Context, params: dict[str, Any]) -> Answer:
    """Record how many instances and which share of the requests each variant is to have."""
    name = params["EndpointName"]
    with context.database.transaction() as session:
        endpoint = _to_be_changed(context, session, name)
        plan = endpoint.serving
        assert plan is not None  # an endpoint in service serves
        for wanted in params["DesiredWeightsAndCapacities"]:
            variant = wanted["VariantName"]
            if all(known["name"] != variant for known in plan["variants"]):
                known = ", ".join(item["name"] for item in plan["variants"])
                raise ValidationError(f'Could not find variant "{variant}" of the endpoint. It has: {known}.')
            if "ServerlessUpdateConfig" in wanted:
                raise ValidationError(f"Variant {variant} is not serverless. Remove ServerlessUpdateConfig.")
            if wanted.get("DesiredInstanceCount") == 0:
                raise ValidationError(f"Variant {variant} needs at least one instance. Received: 0")
            members = {
                "desired_weight": wanted.get("DesiredWeight"),
                "desired_count": wanted.get("DesiredInstanceCount"),
            }
            given = {member: value for member, value in members.items() if value is not None}
            plan = changed_variant(plan, variant, **given)
        if not any(variant["desired_weight"] > 0 for variant in plan["variants"] if not variant["shadow"]):
            raise ValidationError("At least one production variant needs a DesiredWeight above 0.")
        endpoint.serving = plan
        _set_updating(session, endpoint, now())
        arn = endpoint.arn
    changes.announce(context.database, KIND, name)
    return {"EndpointArn": arn}


@operation("sagemaker")
@in_thread
def delete_endpoint(context: Context, params: dict[str, Any]) -> Answer:
    """Order all replicas to stop. The endpoint is gone once nothing of them is left."""
    name = params["EndpointName"]
    with context.database.transaction() as session:
        endpoint = find_endpoint(session, name, for_update=True)
        if endpoint is None:
            raise endpoint_not_found(context, name)
        if endpoint.status != "Deleting":
            endpoint.status, endpoint.last_modified_time = "Deleting", now()
            routing_changed(session)
    changes.announce(context.database, KIND, name)
    return {}


def endpoint_not_found(context: Context, name: str) -> ValidationError:
    """What every operation answers that is given the name of an endpoint that is not there."""
    return ValidationError(f'Could not find endpoint "{context.settings.arn(f"{KIND}/{name}")}".')


def _to_be_changed(context: Context, session: Session, name: str) -> Endpoint:
    endpoint = find_endpoint(session, name, for_update=True)
    if endpoint is None:
        raise endpoint_not_found(context, name)
    if endpoint.status == "Failed":
        raise ValidationError(f'Cannot update failed endpoint "{endpoint.arn}". Delete it and create it again.')
    if endpoint.status != "InService":
        raise ValidationError(f'Cannot update in-progress endpoint "{endpoint.arn}".')
    return endpoint


def _set_updating(session: Session, endpoint: Endpoint, at: dt.datetime) -> None:
    endpoint.status, endpoint.failure_reason, endpoint.last_modified_time = "Updating", None, at
    routing_changed(session)


def _plan(context: Context, session: Session, config_name: str, generation: int) -> dict[str, Any]:
    """A copy of a configuration and its models, as `state.endpoints.Endpoint` describes it."""
    config = find_endpoint_config(session, config_name)
    if config is None:
        raise config_not_found(context, config_name)
    wanted = {variant["ModelName"] for variant in variants_of(config.request)}
    models = find_models(session, wanted)
    for missing in sorted(wanted - models.keys()):
        raise model_not_found(context, missing)
    production = len(config.request["ProductionVariants"])
    return {
        "generation": generation,
        "config_name": config_name,
        "config": config.request,
        "models": {name: model.request for name, model in models.items()},
        "variants": [
            {
                "name": variant["VariantName"],
                "model": variant["ModelName"],
                "instance_type": variant["InstanceType"],
                "shadow": number >= production,
                "weight": variant["InitialVariantWeight"],
                "count": variant["InitialInstanceCount"],
                "desired_weight": variant["InitialVariantWeight"],
                "desired_count": variant["InitialInstanceCount"],
            }
            for number, variant in enumerate(variants_of(config.request))
        ],
    }


def _retaining(plan: dict[str, Any], serving: Mapping[str, Any], excluded: set[str]) -> dict[str, Any]:
    """The new plan with the counts and weights that variants of the same name have now."""
    for now_serving in serving["variants"]:
        kept: dict[str, Any] = {}
        if "DesiredInstanceCount" not in excluded:
            kept |= {"count": now_serving["desired_count"], "desired_count": now_serving["desired_count"]}
        if "DesiredWeight" not in excluded:
            kept |= {"weight": now_serving["desired_weight"], "desired_weight": now_serving["desired_weight"]}
        plan = changed_variant(plan, now_serving["name"], **kept)
    return plan


def _name_taken(arn: str) -> ValidationError:
    return ValidationError(f'Cannot create already existing endpoint "{arn}".')
