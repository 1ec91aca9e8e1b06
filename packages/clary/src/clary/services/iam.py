"""IAM, as far as the SDKs look: execution roles, their trust policy, and simulations of what they may do."""

from __future__ import annotations

import datetime as dt
import json
from itertools import islice, product
from typing import Any
from urllib.parse import quote

from clary.services.registry import Answer, Context, operation
from clary.settings import DEFAULT_ROLE_NAME
from clary.wire.errors import ValidationError
from clary.wire.identity import role_id
from clary.wire.pagination import decode_token, encode_token

_DEFAULT_ITEMS = 100
_CREATED = dt.datetime(2017, 11, 29, tzinfo=dt.UTC)  # the day SageMaker was announced: roles were always there
_TRUST_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}


@operation("iam")
def get_role(context: Context, params: dict[str, Any]) -> Answer:
    """The role of that name, whatever it is: scripts name the roles of their authors' accounts.

    Jobs run as any role's ARN, and AssumeRole speaks as any, so that none can be said to be missing. The role of the
    server's own is the one that is listed.
    """
    return {"Role": _role(context, params["RoleName"])}


@operation("iam")
def list_roles(context: Context, params: dict[str, Any]) -> Answer:
    """The roles under a path: there is one, at "/"."""
    if params.get("Marker") is not None:
        _position(params["Marker"])
    is_listed = params.get("PathPrefix", "/") == "/"
    return {"Roles": [_role(context, DEFAULT_ROLE_NAME)] if is_listed else [], "IsTruncated": False}


@operation(
    "iam",
    accepted_without_effect=(
        "CallerArn",
        "ContextEntries",
        "PermissionsBoundaryPolicyInputList",
        "PolicyInputList",
        "ResourceHandlingOption",
        "ResourceOwner",
        "ResourcePolicy",
    ),
)
def simulate_principal_policy(context: Context, params: dict[str, Any]) -> Answer:
    """Each action is "allowed" on each resource: roles carry no policies here, and refuse nothing."""
    start = _position(params["Marker"]) if params.get("Marker") else 0
    count = params.get("MaxItems", _DEFAULT_ITEMS)
    pairs = product(params["ActionNames"], params.get("ResourceArns") or ["*"])
    page = list(islice(pairs, start, start + count + 1))
    results = [
        {
            "EvalActionName": action,
            "EvalResourceName": resource,
            "EvalDecision": "allowed",
            "MatchedStatements": [],
            "MissingContextValues": [],
        }
        for action, resource in page[:count]
    ]
    if len(page) <= count:
        return {"EvaluationResults": results, "IsTruncated": False}
    return {"EvaluationResults": results, "IsTruncated": True, "Marker": encode_token({"start": start + count})}


def _position(marker: str) -> int:
    start = decode_token(marker).get("start")
    if not isinstance(start, int) or not 0 <= start < 2**31:
        raise ValidationError("Invalid Marker. Use the Marker of the previous page unchanged.", code="ValidationError")
    return start


def _role(context: Context, name: str) -> dict[str, Any]:
    arn = context.settings.role_arn(name)
    return {
        "Path": "/",
        "RoleName": name,
        "RoleId": role_id(arn),
        "Arn": arn,
        "CreateDate": _CREATED,
        "AssumeRolePolicyDocument": quote(json.dumps(_TRUST_POLICY), safe=""),
        "Description": "A role that jobs run as. It allows everything: access is decided by who holds which keys.",
        "MaxSessionDuration": 43200,
    }
