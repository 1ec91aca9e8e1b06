"""STS: who a caller is, and temporary credentials for roles."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from clary.services.registry import Answer, Context, operation
from clary.wire.errors import AwsError, ValidationError
from clary.wire.identity import session_user_id

_ROLE_ARN = re.compile(r"arn:(?P<partition>aws[a-z-]*):iam::(?P<account>\d{12}):role/(?P<path>[\w+=,.@/-]+)", re.ASCII)
_ROLE_SECONDS = 3600
_SESSION_SECONDS = 43200


@operation("sts")
def get_caller_identity(context: Context, params: dict[str, Any]) -> Answer:
    """The account, ARN and id of whoever signed the request."""
    caller = context.caller
    return {"UserId": caller.user_id, "Account": caller.account_id, "Arn": caller.arn}


@operation(
    "sts",
    accepted_without_effect=(
        "ExternalId",
        "Policy",
        "PolicyArns",
        "ProvidedContexts",
        "SerialNumber",
        "SourceIdentity",
        "Tags",
        "TokenCode",
        "TransitiveTagKeys",
    ),
)
def assume_role(context: Context, params: dict[str, Any]) -> Answer:
    """Temporary credentials that speak as a role. Any role will do: whoever has the root keys may be anyone.

    Raises:
        ValidationError: the ARN is not that of a role.
    """
    found = _ROLE_ARN.fullmatch(params["RoleArn"])
    if found is None or not (name := found["path"].rpartition("/")[2]):
        raise ValidationError(f"{params['RoleArn']} is invalid", code="ValidationError")
    arn = f"arn:{found['partition']}:sts::{found['account']}:assumed-role/{name}/{params['RoleSessionName']}"
    return {
        "Credentials": _credentials(context, arn, params.get("DurationSeconds", _ROLE_SECONDS)),
        "AssumedRoleUser": {"AssumedRoleId": session_user_id(arn), "Arn": arn},
    }


@operation("sts", accepted_without_effect=("SerialNumber", "TokenCode"))
def get_session_token(context: Context, params: dict[str, Any]) -> Answer:
    """Temporary credentials that speak as the caller."""
    seconds = params.get("DurationSeconds", _SESSION_SECONDS)
    return {"Credentials": _credentials(context, context.caller.arn, seconds)}


def _credentials(context: Context, arn: str, seconds: int) -> dict[str, Any]:
    if context.credentials is None:
        raise AwsError("ServiceUnavailable", "This server issues no credentials", status=503)
    issued = context.credentials.issue(arn, dt.timedelta(seconds=seconds))
    return {
        "AccessKeyId": issued.access_key,
        "SecretAccessKey": issued.secret_key,
        "SessionToken": issued.session_token,
        "Expiration": issued.expiration,
    }
