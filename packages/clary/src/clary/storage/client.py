"""The one client of the object store, for the server and for hosts.

Requests are repeated while the store is away (it is restarted when it dies) for as long as the client's patience
lasts. Large objects are read in parallel ranges and written in parallel parts; none is ever whole in memory. Any key
that S3 knows can be reached, and a prefix is a string, as in S3, not a folder.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import NoReturn, TypeVar
from urllib.parse import unquote
from xml.etree import ElementTree

import tenacity

from clary.storage import signing
from clary.storage.access import StoreAccess
from clary.storage.errors import BucketMissing, ObjectMissing, StoreError, StoreRefused, StoreUnreachable
from clary.storage.http import Headers, HttpClient, Response, Unreachable

T = TypeVar("T")
_BUSY = {429, 500, 502, 503, 504}
_TRANSIENT = {"RequestTimeout", "SlowDown", "IncompleteBody"}


@dataclass(frozen=True)
class ObjectInfo:
    """One object as a listing shows it. `size` in bytes, `etag` with its quotation marks."""

    key: str
    size: int
    etag: str
    modified: dt.datetime


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and key (or prefix) of "s3://bucket/key".

    Raises:
        ValueError: it is not such an address.
    """
    found = re.fullmatch(r"[sS]3://([^/]+)/?(.*)", uri, re.DOTALL)
    if not found:
        raise ValueError(f"An S3 address has the form s3://bucket/key. Received: {uri!r}")
    return found[1], found[2]


class Busy(Exception):
    """The store is away or asks for patience: the request may be repeated."""


class ObjectStore:
    """The store behind `access`. Safe for concurrent use within one event loop.

    Args:
        patience: seconds for which a request is repeated while the store is away.
    """

    def __init__(self, access: StoreAccess, *, patience: float = 600.0) -> None:
        self.access = access
        self._patience = patience
        self._http = HttpClient(access.endpoint)

    async def close(self) -> None:
        """Close the kept connections."""
        self._http.close()

    async def bucket_exists(self, bucket: str) -> bool:
        """Whether there is such a bucket."""
        try:
            await self.call("HEAD", bucket)
        except BucketMissing:
            return False
        except StoreRefused as error:
            if error.status == 404 or error.code == "InvalidBucketName":
                return False
            raise
        return True

    async def create_bucket(self, bucket: str) -> None:
        """Make the bucket; one that exists already is left as it is."""
        region, body = self.access.region, b""
        if region != "us-east-1":
            space = "http://s3.amazonaws.com/doc/2006-03-01/"
            body = (
                f'<CreateBucketConfiguration xmlns="{space}"><LocationConstraint>{region}</LocationConstraint>'
                "</CreateBucketConfiguration>"
            ).encode()
        try:
            await self.call("PUT", bucket, body=body)
        except StoreRefused as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    async def any_object(self, bucket: str, prefix: str) -> bool:
        """Whether any object's key begins with `prefix`; False too when the bucket is missing."""
        try:
            page, _ = await self._list_page(bucket, prefix, None, 1)
        except BucketMissing:
            return False
        return bool(page)

    async def list_objects(self, bucket: str, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects whose keys begin with `prefix`, in the order of their keys.

        Raises:
            BucketMissing: there is no such bucket.
        """
        token: str | None = None
        while True:
            page, token = await self._list_page(bucket, prefix, token, 1000)
            for found in page:
                yield found
            if token is None:
                return

    async def head(self, bucket: str, key: str) -> ObjectInfo | None:
        """What is known of one object, None when there is none."""
        try:
            response, _ = await self.call("HEAD", bucket, key)
        except (ObjectMissing, BucketMissing):
            return None
        return ObjectInfo(
            key=key,
            size=int(response.header(b"content-length") or 0),
            etag=response.header(b"etag") or "",
            modified=parsedate_to_datetime(response.header(b"last-modified") or "Thu, 01 Jan 1970 00:00:00 GMT"),
        )

    async def read(self, bucket: str, key: str) -> bytes:
        """A small object's content.

        Raises:
            ObjectMissing: there is none.
        """
        return (await self.call("GET", bucket, key))[1]

    async def read_chunks(self, bucket: str, key: str, first: int, size: int, etag: str) -> list[bytes]:
        """A range of one version of an object, in the pieces that it came in.

        Raises:
            StoreRefused: the object was replaced meanwhile (PreconditionFailed).
        """
        headers = {"if-match": etag} if etag else {}
        if size:
            headers["range"] = f"bytes={first}-{first + size - 1}"

        async def attempt() -> list[bytes]:
            response = await self._send("GET", bucket, key, {}, headers, b"")
            chunks = await response.chunks()
            if response.status >= 300:
                _refuse(response.status, b"".join(chunks), bucket, key, "GET")
            received = sum(map(len, chunks))
            if received != size:
                raise Busy(f"{received} of {size} bytes of s3://{bucket}/{key} came")
            return chunks

        return await self._patiently(attempt)

    async def write(self, bucket: str, key: str, content: bytes) -> None:
        """Write a small object, checked by the store against its CRC-32."""
        await self.call("PUT", bucket, key, headers={"x-amz-checksum-crc32": crc32(content)}, body=content)

    async def delete(self, bucket: str, key: str) -> None:
        """Delete an object, if it is there."""
        await self.call("DELETE", bucket, key)

    async def call(
        self,
        method: str,
        bucket: str,
        key: str = "",
        query: dict[str, str | None] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> tuple[Response, bytes]:
        """One request and its whole answer, repeated while the store is away.

        Raises:
            StoreError: the answer is an error, or none came within the client's patience.
        """

        async def attempt() -> tuple[Response, bytes]:
            response = await self._send(method, bucket, key, query or {}, headers or {}, body)
            answer = await response.read()
            # CompleteMultipartUpload and CopyObject may report an error under status 200.
            if response.status >= 300 or (method in ("POST", "PUT") and b"<Error>" in answer[:300]):
                _refuse(response.status, answer, bucket, key, method)
            return response, answer

        return await self._patiently(attempt)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        began = time.monotonic()
        try:
            return await attempt()  # nearly always: tenacity's machinery costs as much as a small request
        except (Unreachable, Busy):
            pass
        patience = self._patience - (time.monotonic() - began)
        try:
            return await tenacity.AsyncRetrying(
                stop=tenacity.stop_after_delay(patience),
                wait=tenacity.wait_random_exponential(multiplier=0.1, max=2),
                retry=tenacity.retry_if_exception_type((Unreachable, Busy)),
                reraise=True,
            )(attempt)
        except (Unreachable, Busy) as error:
            raise StoreUnreachable(
                f"The object store at {self.access.endpoint} did not answer within {self._patience:g} s: {error}"
            ) from None

    async def _send(
        self, method: str, bucket: str, key: str, query: dict[str, str | None], headers: dict[str, str], body: bytes
    ) -> Response:
        path, parameters = signing.object_path(bucket, key), signing.query_string(query)
        sent = {"host": self._http.host, **headers}
        if body or method in ("PUT", "POST"):
            sent["content-length"] = str(len(body))
        signing.sign(self.access, method, path, parameters, sent)
        pairs: Headers = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
        return await self._http.send(method, f"{path}?{parameters}" if parameters else path, pairs, body)

    async def _list_page(
        self, bucket: str, prefix: str, token: str | None, size: int
    ) -> tuple[list[ObjectInfo], str | None]:
        query: dict[str, str | None] = {
            "list-type": "2",
            "encoding-type": "url",
            "max-keys": str(size),
            "prefix": prefix,
        }
        if token:
            query["continuation-token"] = token
        _, answer = await self.call("GET", bucket, query=query)
        return _listing(answer)


def crc32(content: bytes) -> str:
    """The checksum as S3 writes it: big-endian, in base 64."""
    return base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()


def _listing(answer: bytes) -> tuple[list[ObjectInfo], str | None]:
    found: list[ObjectInfo] = []
    token: str | None = None
    truncated = False
    for node in ElementTree.fromstring(answer):
        name = node.tag.rpartition("}")[2]
        if name == "Contents":
            fields = {child.tag.rpartition("}")[2]: child.text or "" for child in node}
            found.append(
                ObjectInfo(
                    key=unquote(fields["Key"].replace("+", " ")),
                    size=int(fields["Size"]),
                    etag=fields.get("ETag", ""),
                    modified=dt.datetime.fromisoformat(fields["LastModified"]),
                )
            )
        elif name == "NextContinuationToken":
            token = node.text
        elif name == "IsTruncated":
            truncated = node.text == "true"
    return found, token if truncated else None


def _refuse(status: int, answer: bytes, bucket: str, key: str, method: str) -> NoReturn:
    """Raise the error that an answer is."""
    code, message = _error(answer)
    if status in _BUSY or code in _TRANSIENT:
        raise Busy(f"{status} {code} {message}".strip())
    if code == "NoSuchBucket" or (status == 404 and not key):
        raise BucketMissing(bucket)
    if code == "NoSuchKey" or (status == 404 and not code):
        raise ObjectMissing(bucket, key)
    raise StoreRefused(code or str(status), message, status, f"{method} s3://{bucket}/{key}")


def _error(answer: bytes) -> tuple[str, str]:
    try:
        fields = {node.tag.rpartition("}")[2]: node.text or "" for node in ElementTree.fromstring(answer)}
    except ElementTree.ParseError:
        return "", answer[:200].decode(errors="replace")
    return fields.get("Code", ""), fields.get("Message", "")


__all__ = [
    "BucketMissing",
    "Busy",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "StoreError",
    "StoreRefused",
    "StoreUnreachable",
    "crc32",
    "parse_s3_uri",
]
