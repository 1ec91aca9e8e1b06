"""A small HTTP/1.1 client for one S3 address: kept connections, streams both ways, backpressure.

Written on `asyncio.Protocol` and httptools because it stands in the way of every byte: a request costs a third of what
it costs with a general client (benchmarks/s3_front.py and benchmarks/channels.py measure what it makes possible).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

Headers = list[tuple[bytes, bytes]]

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 120.0  # how long the other side may take for its next byte
_HIGH_WATER = 1 << 20
_MOST_IDLE = 64


class Unreachable(ConnectionError):
    """The store cannot be reached, or broke off. `sent` tells whether a body that cannot be sent again was begun."""

    def __init__(self, reason: str, *, sent: bool = False) -> None:
        super().__init__(reason)
        self.sent = sent


class HttpClient:
    """Connections to one address. Use from one event loop at a time."""

    def __init__(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError(f"An S3 endpoint is an address such as http://127.0.0.1:8333. Received: {endpoint!r}")
        self.host = address.netloc
        self._secure = ssl.create_default_context() if address.scheme == "https" else None
        self._name = address.hostname
        self._port = address.port or (443 if self._secure else 80)
        self._idle: deque[_Connection] = deque()

    async def send(
        self, method: str, target: str, headers: Headers, body: bytes | AsyncIterable[bytes] = b""
    ) -> Response:
        """Send a request and return when the head of its answer is there.

        Args:
            headers: complete, `host` and `content-length` included, and free of line breaks.
            body: bytes, which are sent again should a kept connection turn out to be closed; or a stream.

        Raises:
            Unreachable: no answer came.
            Exception: whatever the stream of the body raises, with the connection closed before the body is complete.
        """
        lines = [b"%s %s HTTP/1.1" % (method.encode(), target.encode("latin-1"))]
        lines += [b"%s: %s" % pair for pair in headers]
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        while True:
            connection = self._kept()
            fresh = connection is None
            if connection is None:
                connection = await self._connect()
            try:
                return await connection.exchange(method, head, body)
            except Unreachable as error:
                if fresh or error.sent:
                    raise

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.popleft().abort()

    def _kept(self) -> _Connection | None:
        loop = asyncio.get_running_loop()
        while self._idle:
            connection = self._idle.pop()
            if connection.loop is loop and connection.usable:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, self._keep), self._name, self._port, ssl=self._secure
                )
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"{self.host} cannot be reached: {error}") from None
        return connection

    def _keep(self, connection: _Connection) -> None:
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.abort()


class Response:
    """An answer whose body is still to be read; iterate it, `read()` it or `close()` it."""

    def __init__(self, connection: _Connection, status: int, headers: Headers) -> None:
        self._connection = connection
        self.status = status
        self.headers = headers

    def header(self, name: bytes) -> str | None:
        """The value of a header by its name in lower case."""
        return next((value.decode("latin-1") for given, value in self.headers if given == name), None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self._connection.next_chunk()) is not None:
            yield chunk

    async def next(self) -> bytes | None:
        """What has arrived of the body, None at its end."""
        return await self._connection.next_chunk()

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join(await self.chunks())

    async def chunks(self) -> list[bytes]:
        """The whole body, in the pieces that it came in."""
        pieces: list[bytes] = []
        while (chunk := await self._connection.next_chunk()) is not None:
            pieces.append(chunk)
        return pieces

    def close(self) -> None:
        """Give the connection up unless the body is complete."""
        self._connection.finish()


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keep: Any) -> None:
        self.loop = loop
        self._keep = keep
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._error: Unreachable | None = None
        self._busy = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._reading = True

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, method: str, head: bytes, body: bytes | AsyncIterable[bytes]) -> Response:
        self._begin(method)
        transport = cast(asyncio.Transport, self._transport)
        if isinstance(body, bytes):
            transport.write(head + body if len(body) < 65536 else head)
            if len(body) >= 65536:
                transport.write(body)
        else:
            transport.write(head)
            try:
                async for chunk in body:
                    transport.write(chunk)
                    if not self._writable.is_set():
                        await self._flushed()
                    if self._head.done() or self._error:  # an answer before the end is a refusal
                        break
            except BaseException:
                self.abort()
                raise
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                await self._head
        except Unreachable as error:
            raise Unreachable(str(error), sent=self._answered or not isinstance(body, bytes)) from None
        except TimeoutError:
            self.abort()
            raise Unreachable(f"no answer within {_SILENCE_SECONDS:g} s", sent=True) from None
        except BaseException:
            self.abort()
            raise
        return Response(self, self._status, self._headers)

    async def next_chunk(self) -> bytes | None:
        while not self._chunks:
            if self._complete:
                self.finish()
                return None
            if self._error:
                raise self._error
            self._waiter = self.loop.create_future()
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await self._waiter
            except TimeoutError:
                self.abort()
                raise Unreachable(f"silent for {_SILENCE_SECONDS:g} s", sent=True) from None
            except BaseException:
                self.abort()
                raise
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        if not self._reading and self._buffered < _HIGH_WATER // 2 and self.usable:
            self._reading = True
            cast(asyncio.Transport, self._transport).resume_reading()
        return chunk

    def finish(self) -> None:
        """The request is over: keep the connection if its answer was read to the end, else close it."""
        if not self._busy:
            return
        self._busy = False
        if self._complete and self._keep_alive and self._writable.is_set() and self.usable:
            self._keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        self._busy = False
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, method: str) -> None:
        self._busy = True
        self._parser = httptools.HttpResponseParser(self)
        self._bodiless = method == "HEAD"
        self._status = 0
        self._headers: Headers = []
        self._head: asyncio.Future[None] = self.loop.create_future()
        self._waiter: asyncio.Future[None] | None = None
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._complete = False
        self._answered = False
        self._keep_alive = False
        if self._error or not self.usable:
            raise Unreachable("the connection was closed")

    async def _flushed(self) -> None:
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                await self._writable.wait()
        except TimeoutError:
            self.abort()
            raise Unreachable(f"took nothing for {_SILENCE_SECONDS:g} s", sent=True) from None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._error = Unreachable(f"the store closed the connection{f': {exc}' if exc else ''}", sent=self._busy)
        self._writable.set()
        if not self._busy:
            return
        if self._head.done() and not self._complete and self._until_close():
            self._complete = True
        if not self._head.done():
            self._head.set_exception(self._error)
            self._head.exception()  # seen: a body's stream may fail before anyone awaits it
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if not self._busy or self._complete:
            self.abort()  # nothing was asked
            return
        self._answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._complete:
                self._error = Unreachable(f"the store's answer is not HTTP: {error}", sent=True)
                if not self._head.done():
                    self._head.set_exception(self._error)
            self.abort()
            self._wake()

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._headers = []
            return
        self._status = status
        self._keep_alive = self._parser.should_keep_alive()
        if not self._head.done():
            self._head.set_result(None)
        if self._bodiless:
            self._complete = True
            self._wake()

    def on_body(self, body: bytes) -> None:
        if self._bodiless:
            return
        self._chunks.append(body)
        self._buffered += len(body)
        if self._reading and self._buffered > _HIGH_WATER and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        self._wake()

    def on_message_complete(self) -> None:
        if self._status:
            self._complete = True
            self._wake()

    def _until_close(self) -> bool:
        names = {name for name, _ in self._headers}
        return not (names & {b"content-length", b"transfer-encoding"})

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
