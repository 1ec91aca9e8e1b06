"""aws-chunked bodies, taken apart while they stream: signed chunks, unsigned chunks, trailing checksums.

Sources: "Signature calculations for the Authorization header: Transferring payload in multiple chunks" and "…Including
trailing headers (chunked upload)", Amazon S3's API reference.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Generator

from clary.front.s3_errors import S3Error
from clary.wire.sigv4 import EMPTY_SHA256, Authentication

SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
_LONGEST_LINE = 4096
_LONGEST_TRAILER = 16384


class ChunkDecoder:
    """Feed it the body, get the content back; a wrong signature or form is an `S3Error`.

    Args:
        authentication: of the request; its `payload` says which of the three forms the body has.
        length: of the content, as declared in x-amz-decoded-content-length.
    """

    def __init__(self, authentication: Authentication, length: int) -> None:
        self._authentication = authentication
        self._signed = authentication.payload in (SIGNED, SIGNED_TRAILER)
        self._with_trailer = authentication.payload in (SIGNED_TRAILER, UNSIGNED_TRAILER)
        self._previous = authentication.signature
        self._declared = length
        self._left = length
        self._buffer = bytearray()
        self._output: list[bytes] = []
        self.trailer: dict[str, str] = {}
        self.complete = False
        self._steps = self._decode()
        next(self._steps)

    def feed(self, data: bytes) -> list[bytes]:
        """The content within these bytes of the body."""
        self._buffer += data
        self._output = []
        if not self.complete:
            next(self._steps, None)
        return self._output

    def finish(self) -> None:
        """The body is over: refuse it if it was cut off or is not as long as declared."""
        if not self.complete or self._left:
            raise S3Error(
                "IncompleteBody",
                "The request body terminated unexpectedly: "
                f"{self._declared - self._left} of {self._declared} bytes of content came.",
                400,
            )

    def _decode(self) -> Generator[None, None, None]:
        """The body's grammar; each `yield` waits for more bytes."""
        while True:
            line = yield from self._line()
            size_text, _, extension = line.partition(b";")
            try:
                size = int(size_text, 16) if size_text.strip() else -1
            except ValueError:
                size = -1
            if size < 0:
                raise S3Error("InvalidRequest", f"The chunk header {line[:80]!r} is malformed.", 400)
            name, _, signature = extension.partition(b"=")
            if self._signed and name.strip() != b"chunk-signature":
                raise S3Error("InvalidRequest", "A chunk has no chunk-signature.", 400)
            digest = yield from self._content(size)
            if self._signed:
                self._check_chunk(signature.strip().decode("latin-1"), digest)
            if size == 0:
                break
            if (yield from self._line()):
                raise S3Error("InvalidRequest", "A chunk is longer than its header says.", 400)
        yield from self._trailer()
        self.complete = True
        yield

    def _content(self, size: int) -> Generator[None, None, str]:
        """Give out the next `size` bytes; their SHA-256 where chunks are signed."""
        self._left -= size
        if self._left < 0:
            raise S3Error(
                "InvalidRequest", f"The body holds more than the declared {self._declared} bytes of content.", 400
            )
        digest = hashlib.sha256() if self._signed else None
        while size:
            piece = bytes(self._buffer[:size])
            del self._buffer[: len(piece)]
            if piece:
                size -= len(piece)
                if digest:
                    digest.update(piece)
                self._output.append(piece)
            if size:
                yield
        return digest.hexdigest() if digest else ""

    def _trailer(self) -> Generator[None, None, None]:
        lines: list[tuple[str, str]] = []
        size = 0
        while line := (yield from self._line()):
            name, _, value = line.decode("latin-1").partition(":")
            lines.append((name.strip().lower(), value.strip()))
            size += len(line)
            if size > _LONGEST_TRAILER:
                raise S3Error("InvalidRequest", "The trailer is too long.", 400)
        signature = next((value for name, value in lines if name == "x-amz-trailer-signature"), None)
        self.trailer = {name: value for name, value in lines if name != "x-amz-trailer-signature"}
        if self._signed and self._with_trailer:
            text = "".join(f"{name}:{value}\n" for name, value in self.trailer.items())
            expected = self._sign("AWS4-HMAC-SHA256-TRAILER", hashlib.sha256(text.encode("latin-1")).hexdigest())
            if not hmac.compare_digest(expected, signature or ""):
                raise _wrong_signature()

    def _line(self) -> Generator[None, None, bytes]:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LONGEST_LINE:
                raise S3Error("InvalidRequest", "A chunk header is too long.", 400)
            yield
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.removesuffix(b"\r")

    def _check_chunk(self, given: str, digest: str) -> None:
        expected = self._sign("AWS4-HMAC-SHA256-PAYLOAD", f"{EMPTY_SHA256}\n{digest}")
        if not hmac.compare_digest(expected, given.encode("ascii", "replace").decode()):
            raise _wrong_signature()
        self._previous = expected

    def _sign(self, kind: str, digest: str) -> str:
        signer = self._authentication
        text = f"{kind}\n{signer.timestamp}\n{signer.scope}\n{self._previous}\n{digest}"
        return hmac.new(signer.signing_key, text.encode(), hashlib.sha256).hexdigest()


def _wrong_signature() -> S3Error:
    return S3Error(
        "SignatureDoesNotMatch",
        "The signature of a chunk of the body does not match its content. Check your key and signing method.",
        403,
    )
