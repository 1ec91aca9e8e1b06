"""What the front passes on to the API process, over a Unix socket in the home folder.

An API request goes on as it came, as HTTP, with its caller in a header that no client can set, and its method in
another: an answer to HEAD would have no body. The socket is its owner's alone: whoever can write to it may be anyone.

While the API process is away, nobody listens there: what was not begun waits for it and is sent when it is back.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from clary.front.asgi import problem
from clary.inference.connection import Broken, Pool, StreamedAnswer, TooSlow, Unreachable, streamed_exchange
from clary.wire import routing
from clary.wire.errors import AwsError
from clary.wire.messages import Caller, WireRequest, WireResponse
from clary.wire.responses import error_response

CALLER, METHOD = "x-clary-caller", "x-clary-method"
HEALTH, MEASUREMENTS, CLUSTER = "/_clary/health", "/_clary/measurements", "/_clary/cluster"
PATIENCE_SECONDS = 10.0  # a killed API process is back within about a second
ANSWER_SECONDS = 75.0  # longer than any operation waits, for the store above all
HEALTH_SECONDS = 1.0

_SOCKET = "api.sock"
_PAUSE_SECONDS = 0.05
_LARGEST = 1 << 30
_OF_THE_CONNECTION = frozenset(
    ("connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)
_READS = ("Describe", "Get", "List", "BatchDescribe", "BatchGet", "Search")


class Away(Exception):
    """The API process did not answer in time. `begun` tells whether it may have seen the request."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__("The API process does not answer.")
        self.begun = begun


class ApiClient:
    """The API process as the front sees it. Used in one event loop.

    Args:
        home: the home folder.
        patience: seconds for which a request waits while the API process is away.
    """

    def __init__(self, home: Path, patience: float = PATIENCE_SECONDS) -> None:
        self._pool = Pool(_address(home))
        self._patience = patience

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.close()

    async def dispatch(self, request: WireRequest, caller: Caller) -> WireResponse:
        """The API's response to an authenticated request. Never raises."""
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in _OF_THE_CONNECTION and not name.startswith("x-clary-")
        }
        headers[CALLER], headers[METHOD] = _told(caller), request.method
        target = f"{request.path}?{request.query}" if request.query else request.path
        try:
            return await self._pass_on(target, headers, request.body, again=_only_reads(request))
        except Away as away:
            return _unavailable(request, away)

    async def receive(self, host_id: str, authorization: str, body: bytes) -> WireResponse:
        """The API's response to a host's report. Never raises."""
        headers = {"authorization": authorization}
        try:
            # A report may come twice: the API drops what it has.
            return await self._pass_on(f"/_clary/hosts/{host_id}/report", headers, body, again=True)
        except Away:
            return problem(503, "The API is being restarted. Send the report again.")

    async def measured(self, readings: bytes) -> bool:
        """Hand over measurements, if the API process is there to take them; whether they may be forgotten now."""
        try:
            answer = await self._pass_on(MEASUREMENTS, {}, readings, again=False, patience=0)
        except Away as away:
            return away.begun  # what may have been counted is not sent again
        return answer.status < 500

    async def health(self) -> Mapping[str, Any] | None:
        """What the API process says of itself; None when it does not answer at once."""
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                answer = await self._ask(b"GET %s HTTP/1.1\r\nhost: api\r\n\r\n" % HEALTH.encode(), b"")
        except (Unreachable, Broken, TooSlow, TimeoutError):
            return None
        return orjson.loads(answer.body)

    async def _pass_on(
        self,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        again: bool,
        patience: float | None = None,
    ) -> WireResponse:
        """Send a request and return the answer; one that was not begun is sent until patience ends.

        Args:
            again: whether a request that may have been begun does no harm when it is sent again.

        Raises:
            Away: no answer came.
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"host": "api", **headers}.items())
        head = f"POST {target} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode("latin-1")
        deadline = time.monotonic() + (self._patience if patience is None else patience)
        while True:
            try:
                return await self._ask(head, body)
            except Unreachable:
                begun = False
            except Broken:
                begun = True
                if not again:
                    raise Away(begun=True) from None
            except TooSlow:
                raise Away(begun=True) from None
            if time.monotonic() > deadline:
                raise Away(begun=begun)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _ask(self, head: bytes, body: bytes) -> WireResponse:
        answer = await streamed_exchange(self._pool, head, body, seconds=ANSWER_SECONDS)
        headers = _headers(answer)
        if "content-length" in headers:
            del headers["content-length"]
            return WireResponse(answer.status, headers, await answer.rest(_LARGEST))
        headers.pop("transfer-encoding", None)
        return WireResponse(answer.status, headers, stream=answer.pieces())


def listen(home: Path) -> socket.socket:
    """The API process's end of the socket, in place of one that an earlier process has left."""
    path, fresh = _address(home), _address(home, f"{_SOCKET}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX)
    Path(fresh).unlink(missing_ok=True)
    listener.bind(fresh)
    Path(fresh).chmod(0o600)
    listener.listen(1024)
    Path(fresh).replace(path)
    return listener


def unlisten(home: Path) -> None:
    """Remove the socket's name."""
    Path(_address(home)).unlink(missing_ok=True)


def taken_over(request: WireRequest) -> tuple[WireRequest, Caller] | None:
    """A request that was passed on as it was, and who signed it; None for what the front asks itself."""
    told = request.headers.get(CALLER)
    return None if told is None else (replace(request, method=request.headers[METHOD]), _caller(told))


@lru_cache(maxsize=1024)
def _told(caller: Caller) -> str:
    return json.dumps(asdict(caller))  # in ASCII, as a header has to be


@lru_cache(maxsize=1024)
def _caller(told: str) -> Caller:
    return Caller(**json.loads(told))


def _only_reads(request: WireRequest) -> bool:
    return request.headers.get("x-amz-target", "").rpartition(".")[2].startswith(_READS)


def _unavailable(request: WireRequest, away: Away) -> WireResponse:
    done = "It may have been carried out already." if away.begun else "Nothing was done."
    error = AwsError(
        "ServiceUnavailable",
        "The request has failed due to a temporary failure of the server: Clary's API is being restarted. "
        f"{done} Try again in a moment.",
        status=503,
    )
    response = error_response(error, request, routing.protocol_of(request), None, str(uuid.uuid4()))
    return WireResponse(response.status, {**response.headers, "retry-after": "1"}, response.body)


def _headers(answer: StreamedAnswer) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}


def ask(home: Path, path: str, seconds: float = ANSWER_SECONDS) -> Any:
    """What the API process answers to its home's owner, who alone can reach it here, decoded from JSON.

    Raises:
        OSError: it does not answer.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(_address(home))
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
            return json.loads(answer.read())
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"the server's answer was not understood: {error}") from error


def _address(home: Path, name: str = _SOCKET) -> str:
    """A path by which the socket can be named, however long the folder's own is: the kernel takes 107 bytes."""
    path = str(home / name)
    return path if len(path.encode()) < 100 else f"/proc/self/fd/{_folder(home)}/{name}"


@lru_cache(maxsize=8)
def _folder(home: Path) -> int:
    return os.open(home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
