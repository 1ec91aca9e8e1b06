"""Signature Version 4, verified: in the Authorization header and in presigned query strings.

The signer's claim is taken apart first (`read_claim`), so that a caller without keys is refused before any body is
read; `Claim.verify` then compares the signature. Source: "AWS Signature Version 4 for API requests", AWS's guide.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from clary.wire.messages import Caller, WireRequest

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
API_SKEW = dt.timedelta(minutes=5)
S3_SKEW = dt.timedelta(minutes=15)
MAX_PRESIGNED_SECONDS = 604800
_TIMESTAMP = "%Y%m%dT%H%M%SZ"

Lookup = Callable[[str, str | None], tuple[str, Caller]]
"""From an access key and a session token to the secret key and its owner; raises `AuthenticationFailed`."""


class Failure(Enum):
    """Why a request is not authenticated."""

    MISSING = "missing"
    INCOMPLETE = "incomplete"
    UNSUPPORTED = "unsupported"
    UNKNOWN_KEY = "unknown key"
    BAD_TOKEN = "bad token"
    EXPIRED_TOKEN = "expired token"
    WRONG_SIGNATURE = "wrong signature"
    UNSIGNED_HEADER = "unsigned header"
    SKEWED = "skewed"
    LINK_MALFORMED = "link malformed"
    LINK_EXPIRED = "link expired"
    LINK_NOT_YET_VALID = "link not yet valid"


class AuthenticationFailed(Exception):
    """The request is not authenticated. `fields` are what AWS's S3 tells beside the message."""

    def __init__(self, failure: Failure, detail: str = "", fields: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{failure.value}: {detail}")
        self.failure = failure
        self.detail = detail
        self.fields: dict[str, Any] = dict(fields or {})


@dataclass(frozen=True)
class Authentication:
    """Who sent a request, and what the S3 front needs to check a body that it streams.

    `payload` is what the signer said of the body: its SHA-256 in hex, "UNSIGNED-PAYLOAD", or "STREAMING-…", whose
    chunks are signed in a chain from `signature` with `signing_key`, `timestamp` and `scope`.
    """

    caller: Caller
    payload: str
    signature: str
    signing_key: bytes
    timestamp: str  # 20260102T030405Z
    scope: str  # 20260102/us-east-1/s3/aws4_request
    presigned: bool


@dataclass(frozen=True)
class Claim:
    """A signature as sent, its key found and its time checked, still to be compared."""

    request: WireRequest
    caller: Caller
    secret_key: str
    timestamp: str
    scope: str
    signed_headers: tuple[str, ...]
    signature: str
    presigned: bool

    @property
    def is_s3(self) -> bool:
        return self.scope.split("/")[2] == "s3"

    def verify(self, payload: str | None = None) -> Authentication:
        """Compare the signature.

        Args:
            payload: the SHA-256 of the body in hex; None for a body not yet read, where the signer's word stands.

        Raises:
            AuthenticationFailed: the signature is not the one that these bytes have under this key.
        """
        claimed = self.request.headers.get("x-amz-content-sha256")
        if self.is_s3 and self.presigned and claimed is None:
            payload = UNSIGNED_PAYLOAD
        elif payload is None or claimed == UNSIGNED_PAYLOAD:
            payload = claimed
        if payload is None:
            raise AuthenticationFailed(
                Failure.INCOMPLETE, "Missing required header for this request: x-amz-content-sha256"
            )
        date, region, service, _ = self.scope.split("/")
        key = signing_key(self.secret_key, date, region, service)
        for path, query in self._spellings():
            canonical = self._canonical_request(path, query, payload)
            expected = hmac.new(key, self._string_to_sign(canonical), hashlib.sha256).hexdigest()
            if hmac.compare_digest(expected.encode(), self.signature.encode()):
                return Authentication(
                    caller=self.caller if region == self.caller.region else replace(self.caller, region=region),
                    payload=payload,
                    signature=self.signature,
                    signing_key=key,
                    timestamp=self.timestamp,
                    scope=self.scope,
                    presigned=self.presigned,
                )
        raise AuthenticationFailed(Failure.WRONG_SIGNATURE, fields={"AWSAccessKeyId": self.caller.access_key})

    def _spellings(self) -> Iterator[tuple[str, str]]:
        """Path and query as sent, then in normal form: clients differ in what they escape."""
        path, query = self.request.path or "/", self.request.query
        yield (path if self.is_s3 else _twice_encoded(path)), query
        normal_path = quote(unquote(path), safe="/-_.~")
        normal_query = "&".join(f"{_escape(name)}={_escape(value)}" for name, value in _split_query(query))
        if (normal_path, normal_query) != (path, query):
            yield (normal_path if self.is_s3 else _twice_encoded(normal_path)), normal_query

    def _canonical_request(self, path: str, query: str, payload: str) -> bytes:
        pairs = [pair.partition("=") for pair in query.split("&") if pair]
        ordered = sorted((name, value) for name, _, value in pairs if name != "X-Amz-Signature" or not self.presigned)
        headers = self.request.headers
        lines = [
            self.request.method,
            path,
            "&".join(f"{name}={value}" for name, value in ordered),
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in self.signed_headers),
            "",
            ";".join(self.signed_headers),
            payload,
        ]
        return "\n".join(lines).encode("latin-1", "replace")

    def _string_to_sign(self, canonical: bytes) -> bytes:
        return f"{ALGORITHM}\n{self.timestamp}\n{self.scope}\n{hashlib.sha256(canonical).hexdigest()}".encode()


def read_claim(request: WireRequest, lookup: Lookup, now: dt.datetime) -> Claim:
    """Take a request's signature apart, find its key and check its time; the body is not needed.

    Raises:
        AuthenticationFailed: there is no signature, or it cannot be valid whatever the body holds.
    """
    authorization = request.headers.get("authorization", "")
    if authorization.startswith(ALGORITHM):
        return _header_claim(request, authorization, lookup, now)
    query = dict(_split_query(request.query)) if request.query else {}
    if "X-Amz-Algorithm" in query or "X-Amz-Signature" in query:
        return _query_claim(request, query, lookup, now)
    if authorization:
        raise AuthenticationFailed(Failure.UNSUPPORTED, authorization.split(" ", 1)[0])
    raise AuthenticationFailed(Failure.MISSING)


@lru_cache(maxsize=1024)
def signing_key(secret_key: str, date: str, region: str, service: str) -> bytes:
    """The key that one secret signs with on one day, in one region, for one service."""
    key = f"AWS4{secret_key}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _header_claim(request: WireRequest, authorization: str, lookup: Lookup, now: dt.datetime) -> Claim:
    pieces = (piece.partition("=") for piece in authorization[len(ALGORITHM) :].split(","))
    parts = {name.strip(): value.strip() for name, _, value in pieces}
    missing = [name for name in ("Credential", "Signature", "SignedHeaders") if not parts.get(name)]
    if missing:
        told = " ".join(f"Authorization header requires '{name}' parameter." for name in missing)
        raise AuthenticationFailed(Failure.INCOMPLETE, f"{told} Authorization={authorization}")
    timestamp = request.headers.get("x-amz-date", "")
    moment = _moment(timestamp)
    if moment is None:
        raise AuthenticationFailed(
            Failure.INCOMPLETE,
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header"
            f" of the form YYYYMMDD'T'HHMMSS'Z'. Authorization={authorization}",
        )
    access_key, scope = _credential(parts["Credential"], timestamp)
    secret_key, caller = lookup(access_key, request.headers.get("x-amz-security-token"))
    claim = Claim(
        request=request,
        caller=caller,
        secret_key=secret_key,
        timestamp=timestamp,
        scope=scope,
        signed_headers=tuple(parts["SignedHeaders"].split(";")),
        signature=parts["Signature"],
        presigned=False,
    )
    _check_signed_headers(claim)
    _check_skew(moment, now, S3_SKEW if claim.is_s3 else API_SKEW)
    return claim


def _query_claim(request: WireRequest, query: dict[str, str], lookup: Lookup, now: dt.datetime) -> Claim:
    if query.get("X-Amz-Algorithm") != ALGORITHM:
        raise AuthenticationFailed(Failure.LINK_MALFORMED, f'X-Amz-Algorithm only supports "{ALGORITHM}"')
    names = ("X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature")
    if not all(query.get(name) for name in names):
        raise AuthenticationFailed(
            Failure.LINK_MALFORMED,
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature,"
            " X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
        )
    moment = _moment(query["X-Amz-Date"])
    if moment is None:
        raise AuthenticationFailed(
            Failure.LINK_MALFORMED, "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\""
        )
    digits = query["X-Amz-Expires"]
    if not (digits.isascii() and digits.isdigit() and len(digits) < 12):
        raise AuthenticationFailed(Failure.LINK_MALFORMED, "X-Amz-Expires should be a number")
    if int(digits) > MAX_PRESIGNED_SECONDS:
        raise AuthenticationFailed(
            Failure.LINK_MALFORMED,
            "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less than"
            f" {MAX_PRESIGNED_SECONDS} seconds",
        )
    access_key, scope = _credential(query["X-Amz-Credential"], query["X-Amz-Date"])
    token = query.get("X-Amz-Security-Token") or request.headers.get("x-amz-security-token")
    secret_key, caller = lookup(access_key, token)
    if moment > now + S3_SKEW:
        raise AuthenticationFailed(Failure.LINK_NOT_YET_VALID, query["X-Amz-Date"])
    expires = moment + dt.timedelta(seconds=int(digits))
    if now > expires:
        raise AuthenticationFailed(
            Failure.LINK_EXPIRED,
            fields={"X-Amz-Expires": digits, "Expires": _iso(expires), "ServerTime": _iso(now)},
        )
    claim = Claim(
        request=request,
        caller=caller,
        secret_key=secret_key,
        timestamp=query["X-Amz-Date"],
        scope=scope,
        signed_headers=tuple(query["X-Amz-SignedHeaders"].split(";")),
        signature=query["X-Amz-Signature"],
        presigned=True,
    )
    _check_signed_headers(claim)
    return claim


def _credential(credential: str, timestamp: str) -> tuple[str, str]:
    """The access key and the scope of "AKID/20260102/us-east-1/sts/aws4_request"."""
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request" or not all(parts):
        raise AuthenticationFailed(
            Failure.INCOMPLETE,
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term,"
            f" got '{credential}'",
        )
    if parts[1] != timestamp[:8]:
        raise AuthenticationFailed(
            Failure.INCOMPLETE,
            f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{parts[1]}'"
            f" != '{timestamp[:8]}', from '{timestamp}'.",
        )
    return parts[0], "/".join(parts[1:])


def _check_signed_headers(claim: Claim) -> None:
    signed = claim.signed_headers
    needed = ["host"]
    if claim.is_s3:
        needed += [name for name in claim.request.headers if name.startswith("x-amz-")]
    else:
        needed += [name for name in ("x-amz-target", "x-amz-security-token") if name in claim.request.headers]
    unsigned = [name for name in needed if name not in signed]
    if unsigned:
        raise AuthenticationFailed(
            Failure.UNSIGNED_HEADER, ", ".join(unsigned), fields={"HeadersNotSigned": ", ".join(unsigned)}
        )


def _check_skew(moment: dt.datetime, now: dt.datetime, allowed: dt.timedelta) -> None:
    if abs(moment - now) <= allowed:
        return
    minutes = int(allowed.total_seconds() // 60)
    told, present = moment.strftime(_TIMESTAMP), now.strftime(_TIMESTAMP)
    fields = {
        "RequestTime": told,
        "ServerTime": _iso(now),
        "MaxAllowedSkewMilliseconds": str(int(allowed.total_seconds() * 1000)),
    }
    if moment < now:
        edge = (now - allowed).strftime(_TIMESTAMP)
        text = f"Signature expired: {told} is now earlier than {edge} ({present} - {minutes} min.)"
    else:
        edge = (now + allowed).strftime(_TIMESTAMP)
        text = f"Signature not yet current: {told} is still later than {edge} ({present} + {minutes} min.)"
    raise AuthenticationFailed(Failure.SKEWED, text, fields)


def _moment(timestamp: str) -> dt.datetime | None:
    if len(timestamp) != 16 or timestamp[8] != "T" or timestamp[15] != "Z":
        return None
    try:
        return dt.datetime.fromisoformat(timestamp)
    except ValueError:
        return None


def _iso(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _split_query(query: str) -> list[tuple[str, str]]:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return [(unquote(name), unquote(value)) for name, _, value in pairs]


def _escape(text: str) -> str:
    return quote(text, safe="-_.~")


def _twice_encoded(path: str) -> str:
    """The path of a service other than S3: `.`, `..` and empty segments resolved, then escaped once more."""
    if path in ("", "/"):
        return "/"
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            segments = segments[:-1]
        elif segment not in ("", "."):
            segments.append(segment)
    trailing = "/" if segments and path.endswith("/") else ""
    return quote("/" + "/".join(segments) + trailing, safe="/~")
