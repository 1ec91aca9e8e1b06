"""Requests to the store, signed with its own keys (Signature Version 4, the body left out of the signature).

Source: "Authenticating Requests (AWS Signature Version 4)", Amazon S3's API reference.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote, unquote

from clary.storage.access import StoreAccess

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_SAFE = "-_.~"


def normal_path(raw: str) -> str:
    """A request's path with exactly the characters escaped that S3 escapes: what is sent is what is signed."""
    return quote(unquote(raw, "latin-1"), safe="/" + _SAFE, encoding="latin-1")


def object_path(bucket: str, key: str = "") -> str:
    """The path of a bucket or an object."""
    return f"/{quote(bucket, safe=_SAFE)}/{quote(key, safe='/' + _SAFE)}" if key else f"/{quote(bucket, safe=_SAFE)}"


def query_string(parameters: Mapping[str, str | None]) -> str:
    """A query in canonical order; None is a name alone."""
    pairs = sorted((quote(name, safe=_SAFE), quote(value or "", safe=_SAFE)) for name, value in parameters.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def sign(
    access: StoreAccess,
    method: str,
    path: str,
    query: str,
    headers: dict[str, str],
    payload: str = UNSIGNED_PAYLOAD,
    now: dt.datetime | None = None,
) -> None:
    """Add the signature to a request's headers.

    Args:
        path: in normal form.
        query: in canonical form.
        headers: names in lower case, `host` among them; that one and all of `x-amz-*` are signed.
        payload: what is said of the body.
    """
    timestamp = (now or dt.datetime.now(dt.UTC)).strftime("%Y%m%dT%H%M%SZ")
    headers["x-amz-date"] = timestamp
    headers["x-amz-content-sha256"] = payload
    if access.session_token:
        headers["x-amz-security-token"] = access.session_token
    names = sorted(name for name in headers if name == "host" or name.startswith("x-amz-"))
    signed = ";".join(names)
    lines = [method, path, query, *(f"{name}:{' '.join(headers[name].split())}" for name in names), "", signed, payload]
    digest = hashlib.sha256("\n".join(lines).encode("latin-1")).hexdigest()
    scope = f"{timestamp[:8]}/{access.region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{digest}"
    key = _signing_key(access.secret_key, timestamp[:8], access.region)
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    )


@lru_cache(maxsize=16)
def _signing_key(secret_key: str, date: str, region: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (date, region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
