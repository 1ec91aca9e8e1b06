"""What stands before a replica's containers when there is more to do than to pass a request on.

It loads the models of a multi-model endpoint, hands the answer of one container in series to the next one, and finds
the container that is invoked directly. It listens on a Unix socket, in a thread of the supervisor with a loop of its
own. An error that is not the container's is told to the router by the header X-Clary-Error.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
import uvicorn
import uvloop

from clary.host.model_cache import CallContainer, LoadFailed, ModelCache, Reply, Use
from clary.host.model_disk import ModelUnavailable
from clary.inference.connection import (
    Broken,
    Exchange,
    Pool,
    StreamedAnswer,
    TooLarge,
    TooSlow,
    Unreachable,
    exchange,
    streamed_exchange,
)

if TYPE_CHECKING:
    Message = MutableMapping[str, Any]

Answer = TypeVar("Answer", Exchange, StreamedAnswer)

ANSWER_SECONDS = 60.0  # all containers together, without the time in which a model is loaded
_LARGEST = 6_291_456  # what one container may hand to the next, and a request may hold
_TARGET_MODEL = b"x-amzn-sagemaker-target-model"
_HOSTNAME = b"x-amzn-sagemaker-target-container-hostname"
_ABOUT_THE_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"host", b"content-length"}
_STATUS = {"ValidationError": 400, "ModelNotReadyException": 429, "ServiceUnavailable": 503, "Loading": 503}


@dataclass
class Stage:
    """One container as the gateway knows it. `models` is there when it has several; `pool` while it serves."""

    hostname: str
    make_models: Callable[[CallContainer], ModelCache] | None = None
    models: ModelCache | None = None
    pool: Pool | None = None


class _Refusal(Exception):
    """An answer that no container gave."""

    def __init__(self, kind: str, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.kind, self.status = kind, _STATUS.get(kind, status)


class _GivenUp(Exception):
    """The router closed the connection before all of the request was there."""


@dataclass(frozen=True)
class _Request:
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    ends: float  # the time, as time.monotonic has it, by which the answer must be there

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    def line(self, path: str) -> bytes:
        """The request's head as a container gets it."""
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in self.headers if name not in _ABOUT_THE_HOP)
        return b"POST %s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n" % (
            path.encode(),
            lines,
            len(self.body),
        )

    def with_answer(self, answer: Exchange) -> _Request:
        """The request that a container's answer becomes for the next one."""
        kind = answer.header(b"content-type")
        headers = [item for item in self.headers if kind is None or item[0] != b"content-type"]
        if kind is not None:
            headers.append((b"content-type", kind))
        return _Request(headers, answer.body, self.ends)

    def with_any_answer(self) -> _Request:
        """The same, without the client's word on the form of the answer: that is the last container's to heed."""
        return _Request([item for item in self.headers if item[0] != b"accept"], self.body, self.ends)


class Gateway:
    """The containers of a replica behind one address.

    Arguments:
        path: of the Unix socket.
        stages: the containers, in the order in which they are called.
        direct: whether a request names the one that it is for.
    """

    def __init__(self, path: Path, stages: Sequence[Stage], *, direct: bool) -> None:
        self.address = str(path)
        self._stages, self._direct = stages, direct
        self._by_name = {stage.hostname: stage for stage in stages}
        self._in_progress = 0
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        threading.Thread(target=self._run, name="gateway", daemon=True).start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def serve_from(self, hostname: str, address: str | None) -> None:
        """Note where a container serves now; None when it does not. From any thread."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._serve_from(self._by_name[hostname], address), self._loop).result()

    def drain(self, seconds: float, given_up: Callable[[], bool]) -> None:
        """Wait until what is being answered is answered."""
        deadline = time.monotonic() + seconds
        while self._in_progress and time.monotonic() < deadline and not given_up():
            time.sleep(0.02)

    async def _serve_from(self, stage: Stage, address: str | None) -> None:
        if stage.pool is not None:
            stage.pool.close()
        if stage.models is not None:
            stage.models.forget_loaded()
        stage.pool = Pool(address) if address else None

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for the start
            self._failure = error
        self._started.set()

    async def _serve(self) -> None:
        for stage in self._stages:
            if stage.make_models is not None:
                stage.models = stage.make_models(_caller(stage))
        config = uvicorn.Config(
            self._application,
            uds=self.address,
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=24 * 3600,  # the router's kept connections are closed by the router
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())  # takes no signals, as this is not the main thread
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        self._loop = asyncio.get_running_loop()
        self._started.set()
        await task

    async def _application(
        self, scope: Mapping[str, Any], receive: Callable[[], Awaitable[Message]], send: _Send
    ) -> None:
        self._in_progress += 1
        try:
            body = await _body(receive)
            await self._answer(_Request(list(scope["headers"]), body, time.monotonic() + ANSWER_SECONDS), send)
        except _Refusal as refusal:
            await _send_refusal(send, refusal)
        except (Broken, TooSlow) as error:  # in the middle of an answer: the connection ends with it, unfinished
            print(f"an answer of a container broke off: {error!r}", flush=True)
        except _GivenUp:
            pass
        finally:
            self._in_progress -= 1

    async def _answer(self, request: _Request, send: _Send) -> None:
        stages = self._stages
        if self._direct:
            name = (request.header(_HOSTNAME) or b"").decode("latin-1")
            if name not in self._by_name:
                raise _Refusal("ValidationError", f"There is no container {name!r}.")
            stages = [self._by_name[name]]
        for stage in stages[:-1]:
            answer = await self._ask(stage, request.with_any_answer(), send, last=False)
            if answer is None:
                return
            request = request.with_answer(answer)
        await self._ask(stages[-1], request, send, last=True)

    async def _ask(self, stage: Stage, request: _Request, send: _Send, *, last: bool) -> Exchange | None:
        """One container's good answer; None when what it, or the last one, answered has been sent on."""
        if stage.models is None:
            return await _ask_path(stage, request, "/invocations", send, last=last)
        target = (request.header(_TARGET_MODEL) or b"").decode("latin-1")
        for attempt in range(3):
            try:
                async with stage.models.use(target) as use:
                    request = _Request(request.headers, request.body, request.ends + use.waited_seconds)
                    try:
                        return await _ask_path(stage, request, f"/models/{use.name}/invoke", send, last=last, use=use)
                    except _Retry as wish:
                        room = wish.status == 507 and await stage.models.make_room(use)
                        if attempt == 2 or not (room or (wish.status == 404 and await stage.models.lost(use))):
                            await wish.send_on(send, use)
                            return None
            except ModelUnavailable as error:
                raise _Refusal(error.kind, str(error)) from error
            except LoadFailed as error:
                await _send_reply(send, error.reply, stage.hostname)
                return None
        raise AssertionError("the last attempt returns")


_Send = Callable[["Message"], Awaitable[None]]


class _Retry(Exception):
    """A container's answer after which it may be worth asking once more."""

    def __init__(self, status: int, body: bytes, hostname: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        super().__init__(f"status {status}")
        self.status, self._body, self._hostname, self._headers = status, body, hostname, headers

    async def send_on(self, send: _Send, use: Use) -> None:
        await _send_head(send, self.status, [*self._headers, *_own_headers(self._hostname, use)])
        await send({"type": "http.response.body", "body": self._body})


async def _ask_path(
    stage: Stage, request: _Request, path: str, send: _Send, *, last: bool, use: Use | None = None
) -> Exchange | None:
    head = request.line(path)
    if last:
        answer = await _patiently(
            stage,
            lambda pool, fresh: streamed_exchange(
                pool, head, request.body, seconds=max(request.ends - time.monotonic(), 0.01), fresh=fresh
            ),
        )
        headers = [item for item in answer.headers if item[0] not in _ABOUT_THE_HOP]
        if use is not None and answer.status in (404, 507):
            raise _Retry(answer.status, await answer.rest(_LARGEST), stage.hostname, headers)
        length = answer.header(b"content-length")
        if length is not None:
            headers.append((b"content-length", length))
        await _send_head(send, answer.status, [*headers, *_own_headers(stage.hostname, use)])
        await _send_pieces(send, answer)
        return None
    whole = await _patiently(
        stage,
        lambda pool, fresh: exchange(
            pool,
            head,
            request.body,
            seconds=max(request.ends - time.monotonic(), 0.01),
            limit=_LARGEST,
            fresh=fresh,
        ),
    )
    headers = [item for item in whole.headers if item[0] not in _ABOUT_THE_HOP]
    if use is not None and whole.status in (404, 507):
        raise _Retry(whole.status, whole.body, stage.hostname, headers)
    if 200 <= whole.status < 300:
        return whole
    await _send_head(send, whole.status, [*headers, *_own_headers(stage.hostname, use)])
    await send({"type": "http.response.body", "body": whole.body})
    return None


async def _patiently(stage: Stage, ask: Callable[[Pool, bool], Awaitable[Answer]]) -> Answer:
    """A container's answer; asked once more where a kept connection turned out to be closed."""
    for fresh in (False, True):
        if stage.pool is None:
            raise _Refusal("Loading", f"The container {stage.hostname} is being started.")
        try:
            return await ask(stage.pool, fresh)
        except Unreachable as error:
            raise _Refusal("Loading", f"The container {stage.hostname} cannot be reached.") from error
        except Broken as error:
            if fresh or error.answered:
                raise _Refusal("ContainerClosed", stage.hostname) from error
        except TooSlow as error:
            raise _Refusal("ContainerTimedOut", stage.hostname) from error
        except TooLarge as error:
            text = f"The container {stage.hostname} answered with more than {_LARGEST} bytes."
            raise _Refusal("AnswerTooLarge", text) from error
    raise AssertionError("the second attempt returns or raises")


def _caller(stage: Stage) -> CallContainer:
    async def call(method: str, path: str, body: bytes, seconds: float) -> Reply:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        answer = await _patiently(
            stage, lambda pool, fresh: exchange(pool, head, body, seconds=seconds, limit=_LARGEST, fresh=fresh)
        )
        kind = answer.header(b"content-type") or b"application/json"
        return Reply(answer.status, answer.body, kind.decode("latin-1"))

    return call


async def _body(receive: Callable[[], Awaitable[Message]]) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _GivenUp
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > _LARGEST:
            raise _Refusal("ValidationError", f"The request is larger than {_LARGEST} bytes.")
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def _send_pieces(send: _Send, answer: StreamedAnswer) -> None:
    """Pass a body on as it comes; when it breaks off, so does this connection, and the router sees it."""
    pieces: AsyncIterator[bytes] = answer.pieces()
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _send_head(send: _Send, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def _send_reply(send: _Send, reply: Reply, hostname: str) -> None:
    kind = (b"content-type", reply.content_type.encode("latin-1"))
    await _send_head(send, reply.status, [kind, *_own_headers(hostname, None)])
    await send({"type": "http.response.body", "body": reply.body})


async def _send_refusal(send: _Send, refusal: _Refusal) -> None:
    headers = [(b"content-type", b"application/json"), (b"x-clary-error", refusal.kind.encode())]
    with suppress(RuntimeError):  # the head was sent already
        await _send_head(send, refusal.status, headers)
        await send({"type": "http.response.body", "body": orjson.dumps({"error": str(refusal)})})


def _own_headers(hostname: str, use: Use | None) -> list[tuple[bytes, bytes]]:
    """What the router learns of the way that a request took."""
    headers = [(b"x-clary-container", hostname.encode("latin-1"))]
    if use is not None:
        headers.append((b"x-clary-model-cache-hit", b"1" if use.hit else b"0"))
        headers.append((b"x-clary-model-wait-us", b"%d" % int(use.waited_seconds * 1e6)))
    return headers
