"""Single S3 objects, by the standard library: boto3 may not be in the image, and is slow to load."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import re
import shutil
import time
from urllib.parse import quote, urlsplit

from clary_toolkit.training import credentials, log
from clary_toolkit.training.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

_TIMEOUT_SECONDS = 60
_PATIENCE_SECONDS = 60.0  # the store may be restarting; a job is not worth losing over that
_UNSIGNED = "UNSIGNED-PAYLOAD"


class _Refused(Exception):
    """S3 answered with an error status."""

    def __init__(self, status: int, body: bytes) -> None:
        text = body.decode("utf-8", "replace")
        code, message = re.search("<Code>(.*?)</Code>", text), re.search("<Message>(.*?)</Message>", text, re.DOTALL)
        self.status = status
        self.text = "{} {} {}".format(
            status, code.group(1) if code else "", message.group(1) if message else ""
        ).strip()
        super().__init__(self.text)


def download(uri: str, path: str, environ: Mapping[str, str]) -> None:
    """Write the object `uri` (s3://bucket/key) to the file `path`.

    The endpoint is S3_ENDPOINT_URL, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else Amazon's of the region. Connection
    failures and server errors are tried again for a minute. Raises ClientError with S3's own error otherwise.
    """
    with open(path, "wb") as file:
        _patiently("read", uri, lambda: _get(uri, file, environ))


def upload(path: str, uri: str, environ: Mapping[str, str]) -> None:
    """Write the file `path` to the object `uri`; as patient as `download`."""
    _patiently("write", uri, lambda: _put(uri, path, environ))


def _get(uri: str, file: BinaryIO, environ: Mapping[str, str]) -> None:
    file.seek(0)
    file.truncate()
    connection, target, headers = _prepare("GET", uri, environ)
    try:
        connection.request("GET", target, headers=headers)
        response = connection.getresponse()
        if response.status != 200:
            raise _Refused(response.status, response.read(65536))
        shutil.copyfileobj(response, file, 1 << 20)
        expected = response.getheader("Content-Length")
        if expected is not None and file.tell() != int(expected):
            raise http.client.IncompleteRead(b"", int(expected) - file.tell())
    finally:
        connection.close()


def _put(uri: str, path: str, environ: Mapping[str, str]) -> None:
    connection, target, headers = _prepare("PUT", uri, environ)
    try:
        with open(path, "rb") as file:
            headers["Content-Length"] = str(os.fstat(file.fileno()).st_size)
            connection.request("PUT", target, body=file, headers=headers)
        response = connection.getresponse()
        body = response.read(65536)
        if response.status not in (200, 204):
            raise _Refused(response.status, body)
    finally:
        connection.close()


def _patiently(verb: str, uri: str, attempt: object) -> None:
    assert callable(attempt)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    pause = 0.1
    while True:
        try:
            attempt()
            return
        except _Refused as error:
            if error.status < 500 or time.monotonic() > deadline:
                raise ClientError("S3 refused to {} {}: {}".format(verb, uri, error.text)) from error
            reason = error.text
        except FileNotFoundError:  # the local file of an upload
            raise
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                raise ClientError("S3 could not be reached to {} {}: {!r}".format(verb, uri, error)) from error
            reason = repr(error)
        log.debug("S3 will be asked again to {} {}: {}".format(verb, uri, reason))
        time.sleep(pause)
        pause = min(pause * 2, 5.0)


def _prepare(
    method: str, uri: str, environ: Mapping[str, str]
) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """A connection, the request target and the signed headers for one request."""
    bucket, _, key = uri[len("s3://") :].partition("/")
    if not bucket or not key:
        raise ClientError("Expected an address like s3://bucket/key. Received: {!r}".format(uri))
    region = (
        environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or environ.get("SAGEMAKER_REGION") or "us-east-1"
    )
    endpoint = (
        environ.get("S3_ENDPOINT_URL")
        or environ.get("AWS_ENDPOINT_URL_S3")
        or environ.get("AWS_ENDPOINT_URL")
        or "https://s3.{}.amazonaws.com".format(region)
    )
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClientError("The S3 endpoint must be an http:// or https:// address. Received: {!r}".format(endpoint))
    target = "{}/{}/{}".format(parts.path.rstrip("/"), bucket, quote(key, safe="/-_.~"))
    headers = sign(method, parts.netloc.rpartition("@")[2], target, region, credentials.find(environ), time.time())
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname, parts.port, timeout=_TIMEOUT_SECONDS), target, headers


def sign(method: str, host: str, target: str, region: str, who: credentials.Credentials, now: float) -> dict[str, str]:
    """The headers of a request signed by AWS's Signature Version 4, for S3 and without a query.

    Args:
        method: GET or PUT.
        host: the value of the Host header, with the port where it is not the scheme's own.
        target: the percent-encoded path.
        region: the region in the signature's scope.
        who: whose keys sign.
        now: seconds since 1970.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope = "{}/{}/s3/aws4_request".format(moment[:8], region)
    signed = {"host": host, "x-amz-content-sha256": _UNSIGNED, "x-amz-date": moment}
    if who.session_token:
        signed["x-amz-security-token"] = who.session_token
    names = ";".join(sorted(signed))
    lines = (
        [method, target, ""] + ["{}:{}".format(name, signed[name]) for name in sorted(signed)] + ["", names, _UNSIGNED]
    )
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    key = ("AWS4" + who.secret_key).encode()
    for part in (moment[:8], region, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    to_sign = "\n".join(["AWS4-HMAC-SHA256", moment, scope, digest])
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    signed["authorization"] = "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={}, Signature={}".format(
        who.access_key, scope, names, signature
    )
    return signed
