"""Authenticating a request, once, before it is routed: from headers alone for S3, with the body for API operations."""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from urllib.parse import unquote

from clary.front.credentials import CredentialStore
from clary.wire import routing, sigv2, sigv4
from clary.wire.authentication_errors import Family, authentication_error
from clary.wire.errors import AwsError
from clary.wire.messages import WireRequest, WireResponse
from clary.wire.query import is_form, xml_text
from clary.wire.responses import error_response
from clary.wire.rest import is_known_path
from clary.wire.sigv4 import Authentication, AuthenticationFailed


def family_of(request: WireRequest) -> Family:
    """What a request is: one for S3, or one for the API in one of its protocols.

    The signer's own word decides (the service in the credential scope); without it, what the request looks like.
    """
    service = _signed_service(request)
    if service is not None:
        return "s3" if service == "s3" else routing.protocol_of(request)
    headers = request.headers
    if "x-amz-target" in headers or "x-amz-json" in headers.get("content-type", ""):
        return routing.protocol_of(request)
    if request.path == "/" and is_form(request):
        return "query"
    return "rest-json" if is_known_path(request.path) else "s3"


def authenticate_s3(request: WireRequest, credentials: CredentialStore) -> Authentication:
    """Who sent an S3 request; its body, still unread, is to be checked against the result's `payload`.

    Raises:
        AwsError: in S3's words.
    """
    now = dt.datetime.now(dt.UTC)
    try:
        if sigv2.is_presigned(request):
            return sigv2.verify(request, credentials.lookup, now, credentials.root_caller.region)
        return sigv4.read_claim(request, credentials.lookup, now).verify()
    except AuthenticationFailed as failed:
        raise authentication_error(failed, "s3") from None


def claim_api(request: WireRequest, credentials: CredentialStore, family: Family) -> sigv4.Claim:
    """The signature of an API request whose body is still unread.

    Raises:
        AwsError: in the words of the request's protocol.
    """
    try:
        return sigv4.read_claim(request, credentials.lookup, dt.datetime.now(dt.UTC))
    except AuthenticationFailed as failed:
        raise authentication_error(failed, family) from None


def authenticate_api(claim: sigv4.Claim, body: bytes, family: Family) -> Authentication:
    """Who sent an API request, its body complete.

    Raises:
        AwsError: in the words of the request's protocol.
    """
    try:
        return claim.verify(hashlib.sha256(body).hexdigest())
    except AuthenticationFailed as failed:
        raise authentication_error(failed, family) from None


def refusal(error: AwsError, request: WireRequest, family: Family) -> WireResponse:
    """The response to a request that is not let in."""
    request_id = str(uuid.uuid4())
    if family != "s3":
        return error_response(error, request, family, None, request_id)
    fields = "".join(f"<{name}>{xml_text(str(value))}</{name}>" for name, value in error.fields.items())
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{error.code}</Code>'
        f"<Message>{xml_text(error.message)}</Message>{fields}"
        f"<RequestId>{request_id}</RequestId><HostId>clary</HostId></Error>"
    )
    headers = {"content-type": "application/xml", "x-amz-request-id": request_id, "x-amz-id-2": "clary"}
    return WireResponse(error.status, headers, b"" if request.method == "HEAD" else body.encode())


def _signed_service(request: WireRequest) -> str | None:
    authorization = request.headers.get("authorization", "")
    if authorization.startswith(sigv4.ALGORITHM):
        _, _, rest = authorization.partition("Credential=")
        return _service_of(rest.partition(",")[0].strip())
    _, found, rest = request.query.partition("X-Amz-Credential=")
    if found:
        return _service_of(unquote(rest.partition("&")[0]))
    if sigv2.is_presigned(request) or authorization.startswith("AWS "):
        return "s3"
    return None


def _service_of(credential: str) -> str | None:
    parts = credential.split("/")
    return parts[3] if len(parts) == 5 else None
