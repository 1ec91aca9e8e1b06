"""The values that pass between the front, the wire and the services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class WireRequest:
    """One HTTP request, its body complete: API operations are small, S3 objects never come this way."""

    method: str
    path: str  # raw, still percent-encoded
    query: str  # raw, without the question mark
    headers: Mapping[str, str]  # names in lower case
    body: bytes = b""


@dataclass(frozen=True)
class WireResponse:
    """One HTTP response. Where `stream` is set it is the body, sent piece by piece."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None


@dataclass(frozen=True)
class Caller:
    """Who signed the request.

    `job_name` is set for the short-lived credentials of a job, which may do less than a person may.
    """

    access_key: str
    arn: str  # an assumed-role ARN: the SDKs refuse to derive a role from anything else
    user_id: str
    account_id: str
    region: str  # of the credential scope
    job_name: str | None = None


@dataclass(frozen=True)
class OperationCall:
    """A decoded and checked request to one API operation."""

    service: str  # botocore's service name: "sagemaker", "logs", "monitoring" is "cloudwatch"
    operation: str  # as in the model: "CreateTrainingJob"
    params: Mapping[str, Any]  # as botocore would have them: members by model name, timestamps as aware datetimes
    caller: Caller
    request_id: str
    headers: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())
