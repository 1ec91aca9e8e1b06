"""Which operation a request is for: by X-Amz-Target, then by Action, then by path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from clary.wire import query, rest
from clary.wire.errors import AwsError, UnsupportedService
from clary.wire.messages import WireRequest
from clary.wire.services import BY_NAME, BY_TARGET, BY_VERSION, SIGNING_NAMES, Protocol, Service, model

_SIGNED_FOR = re.compile(r"Credential=[^/,]+/\d{8}/[^/,]+/([^/,]+)/aws4_request")


@dataclass(frozen=True)
class Route:
    """The operation, and what finding it has already read."""

    service: Service
    operation: str
    protocol: Protocol
    form: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())
    labels: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())


def protocol_of(request: WireRequest) -> Protocol:
    """The protocol that a request is written in: errors are told in it even where there is no such operation."""
    if "x-amz-target" in request.headers:
        return "json"
    if query.is_form(request):
        return "query"
    is_json = request.path in ("", "/") and "x-amz-json" in request.headers.get("content-type", "")
    return "json" if is_json else "rest-json"


def find(request: WireRequest) -> Route:
    """The operation that a request is for.

    Raises:
        UnsupportedService: it is signed for a service that Clary does not stand in for, and is none of the others'.
        AwsError: UnknownOperationException, or InvalidAction in the Query protocol: AWS has no such operation.
    """
    try:
        return _find(request)
    except AwsError:
        signed = _SIGNED_FOR.search(request.headers.get("authorization", ""))
        if signed is None or signed[1] in SIGNING_NAMES:
            raise
        raise UnsupportedService(signed[1], _named(request), ", ".join([*BY_NAME, "s3"])) from None


def _find(request: WireRequest) -> Route:
    protocol = protocol_of(request)
    if protocol == "json":
        return _by_target(request.headers.get("x-amz-target", ""))
    if protocol == "query":
        return _by_action(query.read_form(request))
    found = rest.match(request.method, request.path)
    if found is None:
        raise unknown(f"No operation at {request.method} {request.path}")
    service, operation, labels = found
    return Route(service, operation, "rest-json", labels=labels)


def unknown(detail: str) -> AwsError:
    """The error for an operation that AWS does not have."""
    return AwsError("UnknownOperationException", detail, status=404)


def _named(request: WireRequest) -> str:
    """What a request for a foreign service asks for, as far as it says so."""
    target = request.headers.get("x-amz-target", "").rpartition(".")[2]
    action = query.read_form(request).get("Action") if not target and query.is_form(request) else None
    return (target or action or f"{request.method} {request.path}")[:200]


def _by_target(target: str) -> Route:
    prefix, _, name = target.rpartition(".")
    service = BY_TARGET.get(prefix)
    if service is None:
        known = ", ".join(sorted(known for known in BY_TARGET if known))
        raise unknown(f"No service has the target prefix of X-Amz-Target '{target[:200]}'. Known prefixes: {known}")
    _check_name(service, name)
    return Route(service, name, "json")


def _by_action(form: Mapping[str, str]) -> Route:
    version, action = form.get("Version", "NO_VERSION_SPECIFIED"), form.get("Action", "")
    service = BY_VERSION.get(version)
    if not action:
        raise AwsError("MissingAction", "The request must contain the parameter Action")
    if service is None or action not in _operation_names(service.name):
        raise AwsError("InvalidAction", f"Could not find operation {action[:200]} for version {version[:200]}")
    return Route(service, action, "query", form=form)


def _check_name(service: Service, name: str) -> None:
    if name not in _operation_names(service.name):
        raise unknown(f"{service.name} has no operation '{name[:200]}'")


@cache
def _operation_names(service: str) -> frozenset[str]:
    return frozenset(model(service).operation_names)
