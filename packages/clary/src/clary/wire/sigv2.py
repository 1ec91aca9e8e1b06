"""Signature Version 2 in presigned S3 links, as boto3 still writes them by default.

Source: "Signing and authenticating REST requests (Signature Version 2)", Amazon S3's API reference.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import re
from urllib.parse import unquote

from clary.wire.messages import WireRequest
from clary.wire.sigv4 import UNSIGNED_PAYLOAD, Authentication, AuthenticationFailed, Failure, Lookup

_SIGNED_PARAMETERS = re.compile(
    "accelerate|acl|analytics|cors|defaultObjectAcl|delete|inventory|lifecycle|location|logging|metrics|notification"
    "|object-lock|partNumber|policy|replication|requestPayment|restore|select|select-type|storageClass|tagging|torrent"
    "|uploadId|uploads|versionId|versioning|versions|website"
    "|response-(cache-control|content-disposition|content-encoding|content-language|content-type|expires)"
)


def is_presigned(request: WireRequest) -> bool:
    """Whether the request is a link signed with version 2."""
    return "AWSAccessKeyId=" in request.query and "Signature=" in request.query


def verify(request: WireRequest, lookup: Lookup, now: dt.datetime, region: str) -> Authentication:
    """Check a presigned link.

    Args:
        region: told to whoever asks for the caller's region: version 2 signs none.

    Raises:
        AuthenticationFailed: the link has expired, or its key or signature is wrong.
    """
    query = _parameters(request.query)
    missing = [name for name in ("AWSAccessKeyId", "Signature", "Expires") if not query.get(name)]
    digits = query.get("Expires") or ""
    if missing or not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        raise AuthenticationFailed(
            Failure.LINK_MALFORMED,
            "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters",
        )
    amz = {
        name: value
        for name, value in {**query, **request.headers}.items()
        if name.startswith("x-amz-") and value is not None
    }
    secret_key, caller = lookup(query["AWSAccessKeyId"] or "", amz.get("x-amz-security-token"))
    if now.timestamp() > int(digits):
        raise AuthenticationFailed(
            Failure.LINK_EXPIRED, fields={"Expires": digits, "ServerTime": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
        )
    headers = request.headers
    lines = [
        request.method,
        headers.get("content-md5") or query.get("content-md5") or "",
        headers.get("content-type") or query.get("content-type") or "",
        digits,
        *(f"{name}:{amz[name].strip()}" for name in sorted(amz)),
        _resource(request.path, query),
    ]
    key = secret_key.encode()
    digest = hmac.new(key, "\n".join(lines).encode("utf-8", "surrogateescape"), hashlib.sha1).digest()
    given = query["Signature"] or ""
    if not hmac.compare_digest(base64.b64encode(digest), given.encode("utf-8", "replace")):
        raise AuthenticationFailed(Failure.WRONG_SIGNATURE, fields={"AWSAccessKeyId": caller.access_key})
    return Authentication(
        caller=caller,
        payload=UNSIGNED_PAYLOAD,
        signature=given,
        signing_key=key,
        timestamp=now.strftime("%Y%m%dT%H%M%SZ"),
        scope=f"{now:%Y%m%d}/{region}/s3/aws4_request",
        presigned=True,
    )


def _resource(path: str, query: dict[str, str | None]) -> str:
    signed = sorted(name for name in query if _SIGNED_PARAMETERS.fullmatch(name))
    pairs = [name if query[name] is None else f"{name}={query[name]}" for name in signed]
    return path + ("?" + "&".join(pairs) if pairs else "")


def _parameters(query: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for pair in query.split("&"):
        name, equals, value = pair.partition("=")
        if name:
            found[unquote(name)] = unquote(value) if equals else None
    return found
