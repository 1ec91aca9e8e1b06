"""The route that hosts report to: `POST /_clary/hosts/{host_id}/report` with the host's own bearer token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pydantic import ValidationError

from clary.host.spec import HostOrders, HostReport
from clary.wire.errors import AwsError
from clary.wire.json_output import dumps
from clary.wire.messages import WireResponse

MAX_REPORT = 64 << 20  # a line of a log may be long, and a host that was alone for a while has many

_log = logging.getLogger(__name__)


class Reports:
    """Takes reports and answers with orders.

    Args:
        receive: from host id, token and report to orders; raises AwsError. Called in a thread: it writes the record.
    """

    max_body = MAX_REPORT

    def __init__(self, receive: Callable[[str, str, HostReport], HostOrders]) -> None:
        self._receive = receive

    async def receive(self, host_id: str, authorization: str, body: bytes) -> WireResponse:
        """The response to one report. Never raises."""
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer" or not token:
            return _problem(401, "A report needs the header Authorization: Bearer <the host's token>")
        try:
            report = HostReport.model_validate_json(body)
            orders = await asyncio.to_thread(self._receive, host_id, token, report)
        except ValidationError as error:
            return _problem(400, f"The report is malformed: {error.errors(include_url=False, include_input=False)}")
        except AwsError as error:
            return _problem(error.status, error.message)
        except Exception:  # noqa: BLE001 - the boundary: the host sends the report again
            _log.exception("the report of host %s failed", host_id)
            return _problem(500, "The report could not be recorded; the server's log tells why. Send it again.")
        return WireResponse(200, {"content-type": "application/json"}, orders.model_dump_json().encode())


def _problem(status: int, message: str) -> WireResponse:
    return WireResponse(status, {"content-type": "application/json"}, dumps({"message": message}))
