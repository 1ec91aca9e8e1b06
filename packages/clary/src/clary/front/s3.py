"""S3 on Clary's own port: authenticated requests, signed anew with the store's key and streamed both ways.

The store listens on loopback with a key that only the server knows. What its gateway does not do as S3 does is done
here: aws:kms (its keys would live in memory and die with it), the owner of buckets, the region, what jobs may touch.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from clary.front import s3_settings
from clary.front.s3_body import Body, Receive, open_body, read_body
from clary.front.s3_errors import ClientGone, S3Error, new_request_id
from clary.front.s3_markers import copied_marker, copy_result, marker_to_put
from clary.front.s3_permissions import NamedPrefixes, OwnerOf, Place, check_places
from clary.front.s3_ranges import head_of_part
from clary.front.s3_request import S3Request, default_kms_key, deleted_keys, encryption_response
from clary.settings import Settings
from clary.storage import signing
from clary.storage.access import StoreAccess
from clary.storage.http import Headers, HttpClient, Response, Unreachable
from clary.wire.sigv4 import Authentication

AUTHENTICATION = "clary.authentication"
Send = Callable[[dict[str, Any]], Any]

_PATIENCE_SECONDS = 10.0  # a dying store is back within about a second
_SMALL_BODY = 4 << 20  # what the front reads itself: a list of a thousand keys at most
_WATCHED = 1 << 20  # a longer answer is given up when its client goes away
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"transfer-encoding", b"server", b"date", b"upgrade", b"trailer", b"te")
)


class S3Proxy:
    """An ASGI application for S3 requests that carry their `Authentication` in the scope.

    Args:
        access: how to reach the store; a function is asked anew for each request, as the store's port may change,
            and raises Unreachable while there is none.
        settings: for region and account.
        embedded: whether the store is Clary's own, for which aws:kms is done here.
        owner_of: of some names, those of recorded training jobs.
        named_prefixes: the s3:// addresses that a training job's request names.
    """

    def __init__(
        self,
        access: StoreAccess | Callable[[], StoreAccess],
        settings: Settings,
        *,
        embedded: bool = True,
        owner_of: OwnerOf = lambda names: set(),
        named_prefixes: NamedPrefixes = lambda job: (),
    ) -> None:
        self._access = (lambda: access) if isinstance(access, StoreAccess) else access
        self._region, self._account = settings.region, settings.account_id
        self._embedded = embedded
        self._owner_of, self._named_prefixes = owner_of, named_prefixes
        self._default_key = default_kms_key(settings.region, settings.account_id)
        self._clients: dict[str, HttpClient] = {}

    async def close(self) -> None:
        """Close the kept connections to the store."""
        for client in self._clients.values():
            client.close()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        authentication: Authentication = scope[AUTHENTICATION]
        request = S3Request.of(scope)
        try:
            await self._answer(request, authentication, receive, send)
        except S3Error as error:
            await _send_error(request, error, send)
        except ClientGone:
            pass

    async def _answer(self, request: S3Request, authentication: Authentication, receive: Receive, send: Send) -> None:
        for owner in request.expected_owners:
            if owner != self._account:
                raise S3Error("AccessDenied", "Access Denied", 403)
        caller = authentication.caller
        if caller.job_name is not None:
            await check_places(caller, request.places(), self._owner_of, self._named_prefixes)
        if self._embedded and (marker := copied_marker(request)):
            await self._copy_marker(request, marker, send)
            return
        body: Body
        if self._embedded and (setting := s3_settings.name_of(request)):
            body = await read_body(receive, authentication, dict(request.headers), _SMALL_BODY)
            await self._check_bucket(request)
            await _send_document(*s3_settings.answer(request.method, setting, body), send)
            return
        if request.method in ("GET", "HEAD", "DELETE"):
            body, body_headers = b"", dict[str, str]()
        elif caller.job_name is not None and request.method == "POST" and "delete" in request.parameters:
            body = await read_body(receive, authentication, dict(request.headers), _SMALL_BODY)
            body_headers = {"content-length": str(len(body))}
            places = [Place("s3:DeleteObject", request.bucket, key) for key in deleted_keys(body)]
            await check_places(caller, places, self._owner_of, self._named_prefixes)
        elif self._embedded and request.method == "PUT" and "encryption" in request.parameters and not request.key:
            rules = await read_body(receive, authentication, dict(request.headers), _SMALL_BODY)
            request, body = request.with_store_encryption_rules(rules)
            body_headers = {"content-length": str(len(body))}
        elif self._creates_bucket(request):
            await read_body(receive, authentication, dict(request.headers), _SMALL_BODY)
            body, body_headers = b"", {"content-length": "0"}  # every bucket is in the one region
        else:
            body, body_headers = await open_body(receive, dict(request.headers), authentication)
        response = await self._forward(request, body, body_headers)
        try:
            await self._relay(request, response, receive, send)
        finally:
            response.close()

    async def _copy_marker(self, request: S3Request, marker: S3Request, send: Send) -> None:
        head = await self._forward(marker, b"", {})
        await head.read()
        if head.status >= 300:
            raise S3Error("NoSuchKey", "The specified key does not exist.", 404, Key=marker.key)
        put = marker_to_put(request, head.header(b"content-type"))
        made = await self._forward(put, b"", {"content-length": "0"})
        document = await made.read()
        if made.status < 300:
            document = copy_result(made.header(b"etag") or "")
        await _send_document(made.status, document, send)

    async def _check_bucket(self, request: S3Request) -> None:
        head = await self._forward(S3Request("HEAD", f"/{request.bucket}", request.bucket, "", {}, {}), b"", {})
        await head.read()
        if head.status == 404:
            raise S3Error("NoSuchBucket", "The specified bucket does not exist", 404, BucketName=request.bucket)

    async def _forward(self, request: S3Request, body: Body, body_headers: dict[str, str]) -> Response:
        """Send the request to the store; one that was not begun is repeated while the store is restarted."""
        if request.kms_key is not None and self._embedded:
            request = request.with_store_encryption(self._default_key)
        if request.method == "GET" and "location" in request.parameters:
            request = S3Request("HEAD", request.path, request.bucket, "", {}, {})
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                access = self._access()
                client = self._client(access.endpoint)
                pairs = self._signed(access, client.host, request, body_headers)
                return await client.send(request.method, request.target, pairs, body)
            except Unreachable as error:
                begun = error.sent and not isinstance(body, bytes)
                if begun or time.monotonic() > deadline:
                    raise S3Error(
                        "SlowDown", "The object store is being restarted; please repeat the request.", 503
                    ) from None
                await asyncio.sleep(0.1)

    def _signed(self, access: StoreAccess, host: str, request: S3Request, body_headers: dict[str, str]) -> Headers:
        forwarded = request.forwarded_headers()
        headers = {"host": host, **forwarded, **body_headers}
        if "x-amz-trailer" in headers and not self._embedded:  # the embedded one would keep it as the object's own
            encodings = ["aws-chunked", *filter(None, [forwarded.get("content-encoding")])]
            headers["content-encoding"] = ",".join(encodings)
        payload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER" if "x-amz-trailer" in headers else signing.UNSIGNED_PAYLOAD
        path, _, query = request.target.partition("?")
        signing.sign(access, request.method, path, query, headers, payload)
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

    async def _relay(self, request: S3Request, response: Response, receive: Receive, send: Send) -> None:
        headers = [pair for pair in response.headers if pair[0] not in _HOP_BY_HOP]
        if self._embedded:
            key = request.kms_key
            headers = encryption_response(headers, None if key is None else key or self._default_key)
        names = {name for name, _ in headers}
        if b"x-amz-request-id" not in names:
            headers.append((b"x-amz-request-id", new_request_id().encode()))
        if request.bucket and not request.key and request.method == "HEAD":
            headers = [pair for pair in headers if pair[0] != b"x-amz-bucket-region"]
            headers.append((b"x-amz-bucket-region", self._region.encode()))
        if replaced := await self._rewritten(request, response):
            status, document = replaced
            headers = [pair for pair in headers if pair[0] not in (b"content-length", b"content-type")]
            headers += [(b"content-length", str(len(document)).encode()), (b"content-type", b"application/xml")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": document})
            return
        length = int(response.header(b"content-length") or -1)
        status = response.status
        if request.method == "HEAD" and request.key and status == 200 and "range" in request.headers:
            status, headers = head_of_part(request.headers["range"], headers)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        watcher = None
        if request.method == "GET" and length > _WATCHED:
            watcher = asyncio.create_task(_client_gone(receive))
        try:
            await _stream(response, length if request.method != "HEAD" else 0, send, watcher)
        except Unreachable:
            # The head is sent: all that is left is to break off, so that the client sees it and asks again.
            raise ConnectionError(f"the store broke off within {request.method} {request.path}") from None
        finally:
            if watcher:
                watcher.cancel()

    async def _rewritten(self, request: S3Request, response: Response) -> tuple[int, bytes] | None:
        """Answers that the store gives otherwise than S3 does: status and document."""
        if request.method == "GET" and "location" in request.parameters and request.bucket and not request.key:
            await response.read()
            if response.status == 404:
                raise S3Error("NoSuchBucket", "The specified bucket does not exist", 404, BucketName=request.bucket)
            if response.status >= 300:
                return None
            region = "" if self._region == "us-east-1" else self._region
            namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
            return 200, (
                f'<?xml version="1.0" encoding="UTF-8"?>\n<LocationConstraint xmlns="{namespace}">{region}'
                "</LocationConstraint>"
            ).encode()
        if self._creates_bucket(request) and response.status == 409 and self._region == "us-east-1":
            document = await response.read()
            # In us-east-1, making a bucket that one owns already is no error.
            return (200, b"") if b"BucketAlreadyOwnedByYou" in document else (409, document)
        if response.status == 400 and request.headers.get("x-amz-trailer"):
            document = await response.read()
            if b"<Code>InvalidDigest" not in document:
                return 400, document
            name = request.headers["x-amz-trailer"].strip().removeprefix("x-amz-checksum-").upper()
            raise S3Error("BadDigest", f"The {name} you specified did not match the calculated checksum.", 400)
        if request.method == "POST" and "uploadId" in request.parameters:
            document = await response.read()
            here = f"http://{request.headers.get('host', '')}".encode()
            return response.status, document.replace(self._access().endpoint.encode(), here)
        return None

    def _creates_bucket(self, request: S3Request) -> bool:
        return request.method == "PUT" and bool(request.bucket) and not request.key and not request.parameters

    def _client(self, endpoint: str) -> HttpClient:
        client = self._clients.get(endpoint)
        if client is None:
            client = self._clients[endpoint] = HttpClient(endpoint)
        return client


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stream(response: Response, length: int, send: Send, watcher: asyncio.Task[None] | None) -> None:
    """Pass the body on. The last piece goes with the end of the answer, which saves a write for a small object."""
    left = length
    while (piece := await response.next()) is not None:
        left -= len(piece)
        if left == 0:
            await send({"type": "http.response.body", "body": piece})
            await response.next()  # its end: the connection is free again
            return
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        if watcher and watcher.done():
            return
    await send({"type": "http.response.body", "body": b""})


async def _send_document(status: int, document: bytes, send: Send) -> None:
    headers = [
        (b"content-type", b"application/xml"),
        (b"content-length", str(len(document)).encode()),
        (b"x-amz-request-id", new_request_id().encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": document})


async def _send_error(request: S3Request, error: S3Error, send: Send) -> None:
    request_id = new_request_id()
    document = b"" if request.method == "HEAD" else error.document(request_id)
    headers = [
        (b"content-type", b"application/xml"),
        (b"content-length", str(len(document)).encode()),
        (b"x-amz-request-id", request_id.encode()),
        (b"x-amz-id-2", b"clary"),
    ]
    if error.code in ("SlowDown", "RequestTimeout"):
        headers.append((b"connection", b"close"))  # the rest of the body is not wanted
    with contextlib.suppress(RuntimeError):
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": document})
