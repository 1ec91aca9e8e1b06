"""Tags: AddTags, ListTags, DeleteTags for every resource that Clary keeps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from clary.services.registry import Context, in_thread, operation
from clary.state import tags
from clary.state.training_jobs import TrainingJob
from clary.wire.errors import ResourceLimitExceeded, ValidationError
from clary.wire.pagination import decode_token, encode_token

MAX_TAGS = 50
_PAGE = 50
_ARN = re.compile(r"^arn:aws[a-z-]*:sagemaker:[a-z0-9-]*:\d{12}:(?P<kind>[a-z0-9-]+)/(?P<name>.+)$")


def _training_job_exists(session: Session, arn: str) -> bool:
    name = arn.rsplit("/", 1)[-1]
    return session.scalar(select(TrainingJob.arn).where(TrainingJob.name == name)) == arn


# By the kind in the ARN: whether the resource exists. A module of another resource adds its own with `taggable`.
_TAGGABLE: dict[str, Callable[[Session, str], bool]] = {"training-job": _training_job_exists}


def taggable(kind: str, exists: Callable[[Session, str], bool]) -> None:
    """Let resources of a kind have tags.

    Args:
        kind: as in the ARN, for instance "endpoint".
        exists: whether the resource of an ARN exists, in the session given.
    """
    _TAGGABLE[kind] = exists


def check_tags(given: Sequence[dict[str, str]]) -> None:
    """Refuse tags that AWS refuses in a request that creates or tags a resource."""
    keys = [tag["Key"] for tag in given]
    if len(set(keys)) < len(keys):
        doubled = next(key for key in keys if keys.count(key) > 1)
        raise ValidationError(f"Duplicate tag keys found. Each tag key may be given once. Received twice: {doubled!r}")
    if len(keys) > MAX_TAGS:
        raise ValidationError(f"A resource can have at most {MAX_TAGS} tags. Received: {len(keys)}")
    for key in keys:
        _refuse_reserved(key)


@operation("sagemaker")
@in_thread
def add_tags(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    arn, given = params["ResourceArn"], params["Tags"]
    check_tags(given)
    with context.database.transaction() as session:
        _check_exists(session, arn)
        if tags.count_with(session, arn, (tag["Key"] for tag in given)) > MAX_TAGS:
            raise ResourceLimitExceeded(f"The resource {arn} cannot have more than {MAX_TAGS} tags.")
        tags.put(session, arn, given)
        return {"Tags": tags.get(session, arn)}


@operation("sagemaker")
def list_tags(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    arn = params["ResourceArn"]
    limit = min(params.get("MaxResults", _PAGE), _PAGE)
    after = decode_token(params["NextToken"]).get("after") if params.get("NextToken") else ""
    if not isinstance(after, str):
        raise ValidationError("Invalid NextToken: it is not one of ListTags.")
    with context.database.reading() as session:
        _check_exists(session, arn)
        found = tags.get(session, arn, after=after, limit=limit + 1)
    answer: dict[str, Any] = {"Tags": found[:limit]}
    if len(found) > limit:
        answer["NextToken"] = encode_token({"after": found[limit - 1]["Key"]})
    return answer


@operation("sagemaker")
@in_thread
def delete_tags(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    for key in params["TagKeys"]:
        _refuse_reserved(key)
    with context.database.transaction() as session:
        _check_exists(session, params["ResourceArn"])
        tags.remove(session, params["ResourceArn"], params["TagKeys"])
    return {}


def _check_exists(session: Session, arn: str) -> None:
    parts = _ARN.match(arn)
    exists = _TAGGABLE.get(parts["kind"]) if parts else None
    if exists is None:
        raise ValidationError(
            f"Resource {arn} cannot be tagged: Clary keeps tags of {', '.join(sorted(_TAGGABLE))} resources."
        )
    if not exists(session, arn):
        raise ValidationError(f"Could not find resource {arn}.")


def _refuse_reserved(key: str) -> None:
    if key.lower().startswith("aws:"):
        raise ValidationError(f"aws: prefixed tag key names are not allowed for external use. Received: {key!r}")
