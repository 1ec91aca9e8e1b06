"""aws-chunked bodies in their three forms, through the real front to the real store."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import http.client
import itertools
import os
import zlib
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from clary.front.s3_chunks import SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER, ChunkDecoder
from clary.front.s3_errors import S3Error
from clary.wire.messages import Caller
from clary.wire.sigv4 import EMPTY_SHA256, Authentication, signing_key

_names = itertools.count(1)


class Sender:
    """Signs and sends one chunked PUT, as the Java and Go SDKs do."""

    def __init__(self, front: Any, bucket: str) -> None:
        self.front, self.path = front, f"/{bucket}/chunked"
        self.timestamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        self.scope = f"{self.timestamp[:8]}/us-east-1/s3/aws4_request"
        root = front.credentials.root
        self.access_key = root.access_key
        self.key = signing_key(root.secret_key, self.timestamp[:8], "us-east-1", "s3")

    def sign(self, text: str) -> str:
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def send(
        self,
        payload: str,
        chunks: list[bytes],
        *,
        trailer: str | None = None,
        damage: bool = False,
        end: bool = True,
    ) -> tuple[int, bytes]:
        headers = {
            "host": urlsplit(self.front.url).netloc,
            "content-encoding": "aws-chunked",
            "x-amz-content-sha256": payload,
            "x-amz-date": self.timestamp,
            "x-amz-decoded-content-length": str(sum(map(len, chunks))),
        }
        if trailer:
            headers["x-amz-trailer"] = trailer.partition(":")[0]
        signed = ";".join(sorted(headers))
        canonical = "\n".join(
            ["PUT", self.path, "", *(f"{name}:{headers[name]}" for name in sorted(headers)), "", signed, payload]
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        seed = self.sign(f"AWS4-HMAC-SHA256\n{self.timestamp}\n{self.scope}\n{digest}")
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{self.scope}, SignedHeaders={signed}, Signature={seed}"
        )
        body = self._body(payload, chunks, seed, trailer)
        if damage:
            body = body.replace(b"A", b"B", 1)
        headers["content-length"] = str(len(body) if end else len(body) - 3)
        connection = http.client.HTTPConnection(headers["host"], timeout=30)
        connection.request("PUT", self.path, body=body if end else body[:-3], headers=headers)
        response = connection.getresponse()
        return response.status, response.read()

    def _body(self, payload: str, chunks: list[bytes], previous: str, trailer: str | None) -> bytes:
        body = b""
        for chunk in [*chunks, b""]:
            head = f"{len(chunk):x}"
            if payload in (SIGNED, SIGNED_TRAILER):
                digest = hashlib.sha256(chunk).hexdigest()
                text = f"AWS4-HMAC-SHA256-PAYLOAD\n{self.timestamp}\n{self.scope}\n{previous}\n{EMPTY_SHA256}\n{digest}"
                previous = self.sign(text)
                head += f";chunk-signature={previous}"
            body += head.encode() + b"\r\n" + chunk + (b"\r\n" if chunk else b"")
        if trailer:
            body += f"{trailer}\r\n".encode()
            if payload == SIGNED_TRAILER:
                digest = hashlib.sha256(f"{trailer}\n".encode()).hexdigest()
                text = f"AWS4-HMAC-SHA256-TRAILER\n{self.timestamp}\n{self.scope}\n{previous}\n{digest}"
                body += f"x-amz-trailer-signature:{self.sign(text)}\r\n".encode()
        return body + b"\r\n"


@pytest.fixture(scope="module")
def s3(s3_front: Any) -> Any:
    return s3_front.client()


@pytest.fixture
def sender(s3_front: Any, s3: Any) -> Sender:
    bucket = f"chunks-{next(_names)}"
    s3.create_bucket(Bucket=bucket)
    return Sender(s3_front, bucket)


def stored(s3: Any, sender: Sender) -> Any:
    return s3.get_object(Bucket=sender.path.split("/")[1], Key="chunked", ChecksumMode="ENABLED")


def is_absent(s3: Any, sender: Sender) -> bool:
    with pytest.raises(ClientError):
        stored(s3, sender)
    return True


def crc_trailer(content: bytes) -> str:
    return "x-amz-checksum-crc32:" + base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()


@pytest.mark.parametrize("payload", [SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER])
@pytest.mark.parametrize("sizes", [[], [1], [65536, 65536, 10], [3 << 20]])
def test_every_form_is_taken_apart(s3: Any, sender: Sender, payload: str, sizes: list[int]) -> None:
    chunks = [os.urandom(size) for size in sizes]
    trailer = None if payload == SIGNED else crc_trailer(b"".join(chunks))
    status, answer = sender.send(payload, chunks, trailer=trailer)
    assert status == 200, answer
    found = stored(s3, sender)
    assert found["Body"].read() == b"".join(chunks)
    assert "ContentEncoding" not in found
    if trailer and sizes:
        assert found["ChecksumCRC32"] == trailer.partition(":")[2]


@pytest.mark.parametrize("payload", [SIGNED, SIGNED_TRAILER])
def test_a_damaged_chunk_is_refused_and_never_seen(s3: Any, sender: Sender, payload: str) -> None:
    content = b"A" * 200_000
    trailer = None if payload == SIGNED else crc_trailer(content)
    status, answer = sender.send(payload, [content], trailer=trailer, damage=True)
    assert (status, b"SignatureDoesNotMatch" in answer) == (403, True)
    assert is_absent(s3, sender)


def test_a_wrong_trailing_checksum_is_refused_and_never_seen(s3: Any, sender: Sender) -> None:
    status, answer = sender.send(UNSIGNED_TRAILER, [b"abc"], trailer=crc_trailer(b"abd"))
    assert (status, b"BadDigest" in answer) == (400, True), answer
    assert is_absent(s3, sender)


def test_a_body_cut_short_is_refused(s3: Any, sender: Sender) -> None:
    status, answer = sender.send(SIGNED, [b"x" * 100_000], end=False)
    assert (status, b"IncompleteBody" in answer) == (400, True)
    assert is_absent(s3, sender)


def decoder(length: int) -> ChunkDecoder:
    caller = Caller("AK", "arn", "id", "000000000000", "us-east-1")
    return ChunkDecoder(Authentication(caller, UNSIGNED_TRAILER, "", b"", "", "", False), length)


@pytest.mark.parametrize("body", [b"zz\r\n", b"-5\r\n", b"4\r\nabcdef\r\n", b"ff\r\n", b"x" * 5000])
def test_malformed_framing_is_refused(body: bytes) -> None:
    with pytest.raises(S3Error):
        decoder(4).feed(body)


def test_a_body_may_arrive_byte_by_byte() -> None:
    chunked = decoder(5)
    pieces = [
        piece
        for byte in b"3\r\nabc\r\n2\r\nde\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n"
        for piece in chunked.feed(bytes([byte]))
    ]
    chunked.finish()
    assert b"".join(pieces) == b"abcde"
    assert chunked.trailer == {"x-amz-checksum-crc32": "AAAA"}
