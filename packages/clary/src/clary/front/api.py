"""The API process's end of the handover: requests that the front has authenticated, reports, measurements."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from clary.front.app import MAX_REPORT, Dispatch, ReportTaker
from clary.front.asgi import Receive, Scope, Send, problem, read_body, request_of, send_response
from clary.front.handover import CLUSTER, HEALTH, MEASUREMENTS, taken_over
from clary.wire.errors import AwsError
from clary.wire.json_output import dumps
from clary.wire.messages import WireRequest, WireResponse

_log = logging.getLogger(__name__)


class Api:
    """The application behind the socket.

    Args:
        dispatch: answers API requests; never raises.
        reports: takes the reports of hosts.
        record: takes a batch of measurements, in a thread; raises ValueError where it is none.
        health: what the process says of itself.
        cluster: what the cluster is at, asked in a thread; for `clary status`, which comes to the socket itself.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        reports: ReportTaker,
        *,
        record: Callable[[bytes], None],
        health: Callable[[], Mapping[str, Any]],
        cluster: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._dispatch = dispatch
        self._reports = reports
        self._record = record
        self._health = health
        self._cluster = cluster

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = request_of(scope)
        try:
            request = replace(request, body=await read_body(scope, receive, request, MAX_REPORT))
        except AwsError as error:  # the front has gone away within the request
            await send_response(send, receive, request, problem(error.status, error.message))
            return
        passed_on = taken_over(request)
        response = await self._own(request) if passed_on is None else await self._dispatch(*passed_on)
        await send_response(send, receive, request, response)

    async def _own(self, request: WireRequest) -> WireResponse:
        parts = request.path.split("/")
        if request.path == HEALTH:
            return WireResponse(200, {"content-type": "application/json"}, dumps(dict(self._health())))
        if request.path == CLUSTER:
            told = await asyncio.to_thread(self._cluster)
            return WireResponse(200, {"content-type": "application/json"}, dumps(dict(told)))
        if request.path == MEASUREMENTS:
            return await self._measured(request.body)
        if len(parts) == 5 and parts[4] == "report":
            return await self._reports.receive(parts[3], request.headers.get("authorization", ""), request.body)
        return problem(404, f"There is nothing at {request.path}")

    async def _measured(self, batch: bytes) -> WireResponse:
        try:
            await asyncio.to_thread(self._record, batch)
        except ValueError as error:
            return problem(400, f"The measurements are malformed: {error}")
        except Exception:  # noqa: BLE001 - the boundary: the front sends them again
            _log.exception("measurements of endpoints could not be recorded")
            return problem(500, "The measurements could not be recorded; the server's log tells why.")
        return WireResponse(204, {})
