"""HTTP/1.1 to one replica: kept connections over a Unix socket or loopback, one request at a time on each.

Everything here runs in one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httptools

Headers = Sequence[tuple[bytes, bytes]]

CONNECT_SECONDS = 2.0
MAX_OUTSTANDING = 1024  # requests at one replica. All connections are kept: a busy server is slow to accept new ones
_PAUSE_BYTES = 1 << 20  # a streamed answer that its client does not take is held back here


class Unreachable(Exception):
    """No connection could be made: the replica has not seen the request."""


class Broken(Exception):
    """The connection ended or said nonsense. `answered` tells whether a part of the answer had come."""

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered


class TooSlow(Exception):
    """The answer did not come in time."""


class TooLarge(Exception):
    """The answer is larger than it may be."""


class Exchange:
    """One request's answer as it comes. `head` is done with the status line and headers, `done` with all of it."""

    __slots__ = ("_size", "_wanted", "chunks", "done", "head", "headers", "limit", "status")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int | None, *, streamed: bool) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: deque[bytes] = deque()
        self.limit = limit
        self._size = 0
        self.done: asyncio.Future[None] = loop.create_future()
        self.head: asyncio.Future[None] | None = loop.create_future() if streamed else None
        self._wanted: asyncio.Future[None] | None = None

    @property
    def body(self) -> bytes:
        """All that came."""
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)

    def header(self, name: bytes) -> bytes | None:
        """A header's value, by its name in lower case."""
        for found, value in self.headers:
            if found == name:
                return value
        return None

    def close(self) -> None:
        """Nothing is left to give up: the answer is complete."""

    def begin(self) -> None:
        if self.head is not None and not self.head.done():
            self.head.set_result(None)

    def add(self, data: bytes) -> bool:
        """Take a piece of the body; False when that is too much."""
        self._size += len(data)
        if self.limit is not None and self._size > self.limit:
            return False
        self.chunks.append(data)
        self._wake()
        return True

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._wake()

    def fail(self, error: Exception) -> None:
        for future in (self.head, self.done):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # whoever awaits it is told; nobody need
        self._wake()

    async def next_pieces(self) -> bytes:
        """What has come since the last call; empty at the end. Raises what went wrong."""
        while not self.chunks and not self.done.done():
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
        if self.chunks:
            pieces = self.body
            self.chunks.clear()
            self._size = 0
            return pieces
        self.done.result()
        return b""

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    @property
    def waiting_bytes(self) -> int:
        """How much of a streamed answer has come and is not taken yet."""
        return self._size


class Connection(asyncio.Protocol):
    """One connection. Used by its pool and by whoever holds it for one exchange."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: Any = None
        self._exchange: Exchange | None = None
        self._answered = self._until_close = self._paused = False
        self._parser: Any = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, request: bytes, body: bytes, exchange: Exchange) -> None:
        """Send a request; the answer fills `exchange`."""
        self._exchange, self._answered, self._until_close = exchange, False, False
        self._parser = httptools.HttpResponseParser(self)
        if len(body) < 65536:
            self._transport.write(request + body)
        else:
            self._transport.write(request)
            self._transport.write(body)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # a server that speaks unasked
            self.close()
            return
        self._answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"it did not answer in HTTP: {error}")
            return
        if exchange.head is not None and exchange.waiting_bytes > _PAUSE_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on, after pieces of a streamed answer were taken."""
        if self._paused and not self.closed:
            self._paused = False
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        exchange = self._exchange
        if exchange is None:
            self._pool.forget(self)
        elif self._until_close and exc is None:
            self._exchange = None
            exchange.finish()
        else:
            self._break("it closed the connection")

    def close(self) -> None:
        """Close without waiting."""
        self.closed = True
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def _break(self, why: str) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.fail(Broken(why, answered=self._answered))
        self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None:
            self._exchange.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        status: int = self._parser.get_status_code()
        if status < 200:  # 100 Continue and its like come before the answer
            exchange.headers.clear()
            return
        exchange.status = status
        self._until_close = (
            status not in (204, 304)
            and exchange.header(b"content-length") is None
            and exchange.header(b"transfer-encoding") is None
        )
        exchange.begin()

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is not None and not exchange.add(body):
            self._exchange = None
            exchange.fail(TooLarge())
            self.close()

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.status == 0:
            return
        self._exchange = None
        keep = self._parser.should_keep_alive()
        exchange.finish()
        if self._paused:
            self.resume()
        if keep:
            self._pool.give_back(self)
        else:
            self.close()


class Pool:
    """The connections to one replica.

    Args:
        address: a Unix socket's path, or host:port.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._idle: list[Connection] = []
        self._closed = False

    def take(self) -> Connection | None:
        """A connection that was kept, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def connect(self) -> Connection:
        """A new connection.

        Raises:
            Unreachable: nobody listens, or not in time.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if self._address.startswith("/"):
                    _, connection = await loop.create_unix_connection(lambda: Connection(self), self._address)
                else:
                    host, _, port = self._address.rpartition(":")
                    _, connection = await loop.create_connection(lambda: Connection(self), host, int(port))
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            raise Unreachable(f"{self._address}: {error}") from error
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose exchange is over."""
        if self._closed or len(self._idle) >= MAX_OUTSTANDING:
            connection.close()
        else:
            self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """Note that an idle connection was closed by the replica."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Keep no connection any more; those in use end with their exchange."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


async def exchange(
    pool: Pool, request: bytes, body: bytes, *, seconds: float, limit: int, fresh: bool = False
) -> Exchange:
    """Send a request and wait for the whole answer.

    Args:
        seconds: within which the answer must be complete.
        limit: how large it may be, in bytes.
        fresh: on a new connection, as one that was kept may have been closed at the other end.

    Raises:
        Unreachable, Broken, TooSlow, TooLarge
    """
    loop = asyncio.get_running_loop()
    answer = Exchange(loop, limit, streamed=False)
    connection = (None if fresh else pool.take()) or await pool.connect()
    timer = loop.call_later(seconds, answer.fail, TooSlow())
    try:
        connection.ask(request, body, answer)
        await answer.done
    except BaseException:
        connection.close()
        raise
    finally:
        timer.cancel()
    return answer


class StreamedAnswer:
    """An answer that is passed on as it comes. `pieces` is to be read to its end, or `close` called."""

    def __init__(self, exchange: Exchange, connection: Connection, piece_seconds: float) -> None:
        self.status, self.header, self.headers = exchange.status, exchange.header, exchange.headers
        self._exchange, self._connection, self._piece_seconds = exchange, connection, piece_seconds

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body.

        Raises:
            Broken, TooSlow
        """
        try:
            while True:
                async with asyncio.timeout(self._piece_seconds):
                    piece = await self._exchange.next_pieces()
                if not piece:
                    return
                self._connection.resume()
                yield piece
        except TimeoutError:
            raise TooSlow from None
        finally:
            self.close()

    async def rest(self, limit: int) -> bytes:
        """The body as a whole, cut off at `limit`."""
        parts: list[bytes] = []
        size = 0
        async for piece in self.pieces():
            parts.append(piece)
            size += len(piece)
            if size > limit:
                break
        return b"".join(parts)[:limit]

    def close(self) -> None:
        """Give the connection up if the answer has not come to its end."""
        if not self._exchange.done.done():
            self._connection.close()


async def streamed_exchange(
    pool: Pool, request: bytes, body: bytes, *, seconds: float, fresh: bool = False
) -> StreamedAnswer:
    """Send a request and wait for the head of the answer, and later for each piece, for at most `seconds`.

    Raises:
        Unreachable, Broken, TooSlow
    """
    loop = asyncio.get_running_loop()
    answer = Exchange(loop, None, streamed=True)
    assert answer.head is not None
    connection = (None if fresh else pool.take()) or await pool.connect()
    timer = loop.call_later(seconds, answer.fail, TooSlow())
    try:
        connection.ask(request, body, answer)
        await answer.head
    except BaseException:
        connection.close()
        raise
    finally:
        timer.cancel()
    return StreamedAnswer(answer, connection, seconds)
