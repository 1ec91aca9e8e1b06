"""An S3 request's body on its way to the store: checked while it streams, its last piece only after the check.

The store makes an object visible when it has the whole declared length, so a body that turns out to be wrong is cut off
before that: nothing of it is ever seen.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from clary.front import s3_chunks
from clary.front.s3_chunks import ChunkDecoder
from clary.front.s3_errors import ClientGone, S3Error
from clary.wire.sigv4 import UNSIGNED_PAYLOAD, Authentication

Receive = Callable[[], Awaitable[dict[str, Any]]]
Body = bytes | AsyncIterator[bytes]

_SILENCE_SECONDS = 120.0
_CHECKSUM_LENGTHS = {
    "x-amz-checksum-crc32": 8,
    "x-amz-checksum-crc32c": 8,
    "x-amz-checksum-crc64nvme": 12,
    "x-amz-checksum-sha1": 28,
    "x-amz-checksum-sha256": 44,
}


async def open_body(
    receive: Receive, headers: dict[str, str], authentication: Authentication
) -> tuple[Body, dict[str, str]]:
    """The body to send to the store, and the headers that go with it (`content-length`, for a trailer more).

    A body that came whole with its request is checked at once and given as bytes, which can be sent again.

    Raises:
        S3Error: the headers do not say how long it is, or a small body is not what was signed.
    """
    payload = authentication.payload
    if payload.startswith("STREAMING-"):
        return _decoded(receive, headers, authentication)
    length = headers.get("content-length", "0" if "transfer-encoding" not in headers else "")
    if not length.isascii() or not length.isdigit():
        raise S3Error("MissingContentLength", "You must provide the Content-Length HTTP header.", 411)
    if int(length) == 0:
        _check(hashlib.sha256(), payload)
        return b"", {"content-length": "0"}
    message = await _message(receive)
    first = message.get("body", b"")
    if not message.get("more_body", False):
        _check(hashlib.sha256(first) if payload != UNSIGNED_PAYLOAD else None, payload)
        return first, {"content-length": str(len(first))}
    return _held_back(_plain(receive, first, payload)), {"content-length": length}


async def read_body(receive: Receive, authentication: Authentication, headers: dict[str, str], limit: int) -> bytes:
    """A small body that the front reads itself, checked.

    Raises:
        S3Error: it is longer than `limit`, or not what was signed.
    """
    body, _ = await open_body(receive, headers, authentication)
    if isinstance(body, bytes):
        return body
    pieces: list[bytes] = []
    async for piece in body:
        pieces.append(piece)
        if sum(map(len, pieces)) > limit:
            raise S3Error("MaxMessageLengthExceeded", "Your request was too large.", 400)
    return b"".join(pieces)


async def _plain(receive: Receive, first: bytes, payload: str) -> AsyncIterator[bytes]:
    digest = None if payload == UNSIGNED_PAYLOAD else hashlib.sha256()
    piece, more = first, True
    while True:
        if piece:
            if digest:
                digest.update(piece)
            yield piece
        if not more:
            break
        message = await _message(receive)
        piece, more = message.get("body", b""), message.get("more_body", False)
    _check(digest, payload)


async def _held_back(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, the last one only when the source has ended well."""
    held = b""
    async for piece in pieces:
        if held:
            yield held
        held = piece
    yield held


def _decoded(receive: Receive, headers: dict[str, str], authentication: Authentication) -> tuple[Body, dict[str, str]]:
    payload = authentication.payload
    if payload not in (s3_chunks.SIGNED, s3_chunks.SIGNED_TRAILER, s3_chunks.UNSIGNED_TRAILER):
        raise S3Error("NotImplemented", f"Bodies of the form {payload} are not supported.", 501)
    declared = headers.get("x-amz-decoded-content-length", "")
    if not declared.isascii() or not declared.isdigit():
        raise S3Error("MissingContentLength", "You must provide the x-amz-decoded-content-length HTTP header.", 411)
    decoder = ChunkDecoder(authentication, int(declared))
    content = _held_back(_content(receive, decoder))
    trailer = headers.get("x-amz-trailer", "").strip().lower()
    if not trailer or payload == s3_chunks.SIGNED:
        return (content if int(declared) else _nothing(content)), {"content-length": declared}
    if trailer not in _CHECKSUM_LENGTHS:
        raise S3Error(
            "InvalidRequest", f"The value specified in the x-amz-trailer header is not supported: {trailer}", 400
        )
    # The store checks and keeps the checksum: it gets the content as one unsigned chunk with the same trailer.
    head = f"{int(declared):x}\r\n".encode() if int(declared) else b""
    tail = len(b"0\r\n") + len(trailer) + 1 + _CHECKSUM_LENGTHS[trailer] + len(b"\r\n\r\n")
    length = len(head) + int(declared) + (2 if head else 0) + tail
    return _framed(head, content, decoder, trailer), {
        "content-length": str(length),
        "x-amz-decoded-content-length": declared,
        "x-amz-trailer": trailer,
    }


async def _content(receive: Receive, decoder: ChunkDecoder) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await _message(receive)
        more = message.get("more_body", False)
        for piece in decoder.feed(message.get("body", b"")):
            yield piece
    decoder.finish()


async def _nothing(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """An empty object still has a chunk to check."""
    async for _ in content:
        pass
    yield b""


async def _framed(
    head: bytes, content: AsyncIterator[bytes], decoder: ChunkDecoder, trailer: str
) -> AsyncIterator[bytes]:
    yield head
    async for piece in content:
        yield piece
    value = decoder.trailer.get(trailer, "")
    if len(value) != _CHECKSUM_LENGTHS[trailer]:
        raise S3Error("InvalidRequest", f"Value for {trailer} trailing header is invalid.", 400)
    yield (b"\r\n" if head else b"") + f"0\r\n{trailer}:{value}\r\n\r\n".encode()


async def _message(receive: Receive) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_SILENCE_SECONDS):
            message = await receive()
    except TimeoutError:
        raise S3Error(
            "RequestTimeout",
            "Your socket connection to the server was not read from or written to within the timeout period.",
            400,
        ) from None
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message


def _check(digest: Any, payload: str) -> None:
    if payload == UNSIGNED_PAYLOAD or digest is None:
        return
    found = digest.hexdigest()
    if not hmac.compare_digest(found.encode(), payload.encode("latin-1", "replace")):
        raise S3Error(
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
            400,
            ClientComputedContentSHA256=payload,
            S3ComputedContentSHA256=found,
        )
