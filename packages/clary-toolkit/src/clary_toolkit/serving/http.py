"""HTTP/1.1 on asyncio: keep-alive, pipelined and chunked requests, and answers given from any thread.

Only what a model server needs, so that a request costs tens of microseconds. A connection that stops in the middle of a
request is closed after a while; one that is idle between requests stays.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque

from clary_toolkit.serving import json_writing, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LARGEST_HEAD = 64 * 1024
_PAUSE_AT = 4 * 1024 * 1024  # bytes of further requests that are taken in while one is being answered
STALLED_SECONDS = 30.0
_REASONS = {
    200: "OK", 202: "Accepted", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 411: "Length Required",
    413: "Payload Too Large", 415: "Unsupported Media Type", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 499: "Client Closed Request", 500: "Internal Server Error",
    501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
    505: "HTTP Version Not Supported", 507: "Insufficient Storage",
}  # fmt: skip


class Request:
    """A whole request: `path` without the query, header names in lower case."""

    __slots__ = ("body", "headers", "method", "path", "query")

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        self.body = body


class Exchange:
    """One request and the way to answer it, once, from whatever thread."""

    __slots__ = ("_answered", "_connection", "_keep_alive", "request", "started")

    def __init__(self, connection: Connection, request: Request, keep_alive: bool) -> None:
        self._connection = connection
        self._keep_alive = keep_alive
        self._answered = False
        self.request = request
        self.started = time.perf_counter()

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._connection.is_lost or self._answered

    def answer(self, status: int, body: bytes = b"", content_type: str = "application/json", headers: str = "") -> None:
        """Send the answer.

        Args:
            status: the HTTP status.
            body: its content.
            content_type: left out where there is no body.
            headers: further header lines, each ended by CR LF.
        """
        server = self._connection.server
        if self._answered:
            return
        self._answered = True
        keep = self._keep_alive and not server.is_draining
        head = "HTTP/1.1 {} {}\r\n{}Content-Length: {}\r\n{}{}\r\n".format(
            status,
            _REASONS.get(status, "Unknown"),
            "Content-Type: " + content_type + "\r\n" if body else "",
            len(body),
            headers,
            "" if keep else "Connection: close\r\n",
        )
        content = head.encode("latin-1", "replace")
        if self.request.method != "HEAD":
            content += body
        if log.is_debug():
            self._log(status, len(body))
        if threading.get_ident() == server.thread:
            self._connection.finish(content, keep)
        else:
            server.loop.call_soon_threadsafe(self._connection.finish, content, keep)

    def answer_in_pieces(self, status: int, pieces: Iterator[bytes], content_type: str) -> None:
        """Send an answer as it is made, on the calling thread, which is not the loop's.

        What the first piece raises is raised here, before anything is sent. Later on the connection is broken off: that
        is how the other end learns that the answer is not complete.
        """
        first = next(pieces, b"")
        if self._answered:
            return
        self._answered = True
        server, connection = self._connection.server, self._connection
        keep = self._keep_alive and not server.is_draining
        head = "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n{}\r\n".format(
            status, _REASONS.get(status, "Unknown"), content_type, "" if keep else "Connection: close\r\n"
        )
        try:
            connection.send_soon(head.encode("latin-1", "replace") + _chunk(first))
            for piece in pieces:
                if not connection.wait_until_writable():
                    return  # nobody reads any more
                connection.send_soon(_chunk(piece))
        except BaseException:  # noqa: BLE001 - the boundary to the code that makes the pieces
            log.exception("an answer broke off")
            server.loop.call_soon_threadsafe(connection.abort)
            return
        finally:
            close = getattr(pieces, "close", None)
            if callable(close):
                close()
        server.loop.call_soon_threadsafe(connection.finish, b"0\r\n\r\n", keep)

    def _log(self, status: int, size: int) -> None:
        log.debug(
            '"{} {}" {} {} bytes {:.2f} ms'.format(
                self.request.method, self.request.path, status, size, (time.perf_counter() - self.started) * 1000
            )
        )


class Server:
    """All connections of one process.

    Args:
        handle: called on the loop's thread with each request; it must not block.
        max_body: the most bytes of a request's body.
    """

    def __init__(self, handle: Callable[[Exchange], None], max_body: int) -> None:
        self.handle = handle
        self.max_body = max_body
        self.loop = asyncio.get_event_loop()
        self.thread = threading.get_ident()
        self.is_draining = False
        self.connections: set[Connection] = set()

    @property
    def in_progress(self) -> int:
        """How many requests have come and not been answered."""
        return sum(connection.is_busy for connection in self.connections)

    def protocol(self) -> Connection:
        """A new connection, for the loop's create_server."""
        return Connection(self)

    async def watch(self) -> None:
        """Close connections that stopped in the middle of a request. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(min(5.0, STALLED_SECONDS / 3))
            before = self.loop.time() - STALLED_SECONDS
            for connection in list(self.connections):
                if connection.is_partial and connection.heard < before:
                    connection.refuse(
                        408, "The rest of the request did not come within {:.0f} s".format(STALLED_SECONDS)
                    )

    async def drain(self, seconds: float) -> None:
        """Answer what is in progress, and what still comes on open connections; then close them all."""
        self.is_draining = True
        end = self.loop.time() + seconds
        quiet_since = self.loop.time()
        while self.loop.time() < end and self.loop.time() - quiet_since < 0.3:
            if self.in_progress:
                quiet_since = self.loop.time()
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.close()


class Connection(asyncio.Protocol):
    """One client's connection. Requests are answered in their order, one at a time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_lost = False
        self.is_busy = False
        self.heard = 0.0
        self._buffer = bytearray()
        self._scanned = 0
        self._head: _Head | None = None
        self._chunks: deque[bytes] | None = None
        self._paused = False
        self._closing = False
        self._is_advancing = False
        self._writable = threading.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None

    @property
    def is_partial(self) -> bool:
        """Whether a request has begun and not come to its end."""
        return not self.is_busy and (bool(self._buffer) or self._head is not None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.heard = self.server.loop.time()
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self.is_busy = False
        self._writable.set()
        self.server.connections.discard(self)

    def eof_received(self) -> bool:
        if self.is_busy:
            self._closing = True  # the client has said all; it may still read the answer
            return True
        return False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self.heard = self.server.loop.time()
        if not self.is_busy:
            self._advance()
        elif len(self._buffer) > _PAUSE_AT and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def wait_until_writable(self) -> bool:
        """Wait, in another thread than the loop's, while the client reads slowly; whether there still is one."""
        self._writable.wait()
        return not self.is_lost

    def send_soon(self, content: bytes) -> None:
        """Send a part of an answer, from another thread than the loop's."""
        self.server.loop.call_soon_threadsafe(self._send, content)

    def abort(self) -> None:
        """Break off in the middle of an answer."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self, content: bytes) -> None:
        if not self.is_lost and self._transport is not None:
            self._transport.write(content)

    def finish(self, content: bytes, keep_alive: bool) -> None:
        """Send an answer and turn to the next request."""
        if self.is_lost or self._transport is None:
            return
        self._transport.write(content)
        self.is_busy = False
        if not keep_alive or self._closing:
            self._transport.close()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._buffer:
            self._advance()

    def refuse(self, status: int, message: str) -> None:
        """Answer what cannot be read as a request, and close."""
        self._head = None
        self._buffer.clear()
        self.is_busy = True
        self._closing = True
        Exchange(self, Request("", "", {}, b""), False).answer(status, json_writing.error(message))

    def close(self) -> None:
        """Close once everything is sent."""
        if self._transport is not None:
            self._transport.close()

    def _advance(self) -> None:
        """Hand on the requests that have come, the next one when the one before it is answered."""
        if self._is_advancing:
            return  # a request was answered as it was handed on: the loop below goes on
        self._is_advancing = True
        try:
            while not self.is_busy and not self.is_lost and self._take():
                pass
        finally:
            self._is_advancing = False

    def _take(self) -> bool:
        """Hand on one request; whether a whole one was there."""
        if self._head is None and not self._read_head():
            return False
        head = self._head
        if head is None:
            return False
        body = self._read_chunks() if head.chunked else self._read_body(head.length)
        if body is None:
            return False
        self._head = None
        self._chunks = None
        self.is_busy = True
        self.server.handle(Exchange(self, Request(head.method, head.target, head.headers, body), head.keep_alive))
        return True

    def _read_head(self) -> bool:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end < 0 or end > _LARGEST_HEAD:
            self._scanned = len(buffer)
            if len(buffer) > _LARGEST_HEAD:
                self.refuse(431, "The request's headers are larger than {} bytes".format(_LARGEST_HEAD))
            return False
        text = bytes(buffer[:end]).decode("latin-1")
        del buffer[: end + 4]
        self._scanned = 0
        try:
            head = _Head(text)
        except _Malformed as error:
            self.refuse(error.status, str(error))
            return False
        if head.length > self.server.max_body:
            self._refuse_body(head.length)
            return False
        self._head = head
        if head.chunked:
            self._chunks = deque()
        if head.expects_continue and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _read_body(self, length: int) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < length:
            return None
        if not length:
            return b""
        body = bytes(buffer) if len(buffer) == length else bytes(memoryview(buffer)[:length])
        del buffer[:length]
        return body

    def _read_chunks(self) -> bytes | None:
        buffer, chunks = self._buffer, self._chunks
        if chunks is None:
            return None
        while True:
            end = buffer.find(b"\r\n")
            if end < 0:
                if len(buffer) > 1024:
                    self.refuse(400, "A chunk of the body does not begin with its size")
                return None
            try:
                size = int(bytes(buffer[:end]).split(b";")[0], 16)
            except ValueError:
                self.refuse(400, "A chunk of the body does not begin with its size")
                return None
            if size < 0 or sum(map(len, chunks)) + size > self.server.max_body:
                self._refuse_body(size)
                return None
            if size == 0:
                finish = buffer.find(b"\r\n\r\n", end)
                if finish < 0:
                    return None
                del buffer[: finish + 4]
                return b"".join(chunks)
            if len(buffer) < end + 2 + size + 2:
                return None
            chunks.append(bytes(buffer[end + 2 : end + 2 + size]))
            del buffer[: end + 2 + size + 2]

    def _refuse_body(self, size: int) -> None:
        self.refuse(
            413, "The request's body of {} bytes is larger than the {} allowed".format(size, self.server.max_body)
        )


def _chunk(piece: bytes) -> bytes:
    """A piece of a chunked body; an empty one would end it."""
    return b"%x\r\n%s\r\n" % (len(piece), piece) if piece else b""


class _Malformed(Exception):
    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class _Head:
    """The request line and the headers."""

    __slots__ = ("chunked", "expects_continue", "headers", "keep_alive", "length", "method", "target")

    def __init__(self, text: str) -> None:
        lines = text.lstrip("\r\n").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            raise _Malformed("The request line {!r} is not HTTP".format(lines[0][:100]))
        self.method, self.target, version = words
        if version not in ("HTTP/1.1", "HTTP/1.0"):
            raise _Malformed("{} is not spoken here: use HTTP/1.1".format(version[:20]), 505)
        self.headers = headers = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise _Malformed("The header line {!r} cannot be read".format(line[:100]))
            name = name.lower()
            if name == "content-length" and headers.get(name, value.strip()) != value.strip():
                raise _Malformed("The request has two lengths")
            headers[name] = value.strip()
        connection = headers.get("connection", "").lower()
        self.keep_alive = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
        self.chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise _Malformed("The Content-Length {!r} is no number".format(length[:20]))
        if self.chunked and "content-length" in headers:
            raise _Malformed("A chunked request has no Content-Length")
        self.length = int(length)
        self.expects_continue = headers.get("expect", "").lower() == "100-continue"
