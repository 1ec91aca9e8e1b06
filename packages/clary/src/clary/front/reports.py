"""The route that hosts report to: `POST /_clary/hosts/{host_id}/report` with the host's own bearer token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pydantic import ValidationError

from clary.front.asgi import problem
from clary.host.spec import HostOrders, HostReport
from clary.wire.errors import AwsError
from clary.wire.messages import WireResponse

_log = logging.getLogger(__name__)


class Reports:
    """Takes reports and answers with orders.

    Args:
        receive: from host id, token and report to orders; raises AwsError. Called in a thread: it writes the record.
    """

    def __init__(self, receive: Callable[[str, str, HostReport], HostOrders]) -> None:
        self._receive = receive

    async def receive(self, host_id: str, authorization: str, body: bytes) -> WireResponse:
        """The response to one report. Never raises."""
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer" or not token:
            return problem(401, "A report needs the header Authorization: Bearer <the host's token>")
        try:
            report = HostReport.model_validate_json(body)
            orders = await asyncio.to_thread(self._receive, host_id, token, report)
        except ValidationError as error:
            return problem(400, f"The report is malformed: {error.errors(include_url=False, include_input=False)}")
        except AwsError as error:
            return problem(error.status, error.message)
        except Exception:  # noqa: BLE001 - the boundary: the host sends the report again
            _log.exception("the report of host %s failed", host_id)
            return problem(500, "The report could not be recorded; the server's log tells why. Send it again.")
        return WireResponse(200, {"content-type": "application/json"}, orders.model_dump_json().encode())
