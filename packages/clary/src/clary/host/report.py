"""Brings what a host has to say to the server, for as long as it takes, and its orders back.

Phases, log lines, metrics and the ending are on disk before they are sent. A report may be sent twice: the server
drops what it has.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from clary.host.spec import Ending, HostOrders, HostReport, Phase, PhaseChange
from clary.host.spool import Spool, Syncer, read_records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clary.host.layout import HostFolder
    from clary.host.output_capture import Line
    from clary.host.serving_spec import AnySpec

HEARTBEAT_SECONDS = 1.0
WAITING_SECONDS = 0.1  # between reports while an order is awaited: a start, a merge
COALESCE_SECONDS = 0.15  # lines that come within this are sent together
_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0)
_FORGOTTEN_SECONDS = 60.0


class Reporter:
    """Sends reports in a thread of its own. Its methods may be called from any thread and never wait for the server.

    Arguments:
        spec: the host's.
        folder: where the spool lies.
        on_orders: called in the reporting thread with every answer of the server.
    """

    def __init__(self, spec: AnySpec, folder: HostFolder, on_orders: Callable[[HostOrders], None]) -> None:
        folder.spool.mkdir(parents=True, exist_ok=True)
        self._spec, self._folder, self._on_orders = spec, folder, on_orders
        self._logs = Spool(folder.spool / "logs.jsonl")
        self._metrics = Spool(folder.spool / "metrics.jsonl")
        self._logs.reserve()
        self._syncer = Syncer(self._logs, self._metrics)
        self._phases: list[PhaseChange] = []
        self._ending: Ending | None = None
        self._address: str | None = None
        self._awaiting_order = False
        self._changed = threading.Condition()
        self._urgent = self._dirty = False
        self._connection: http.client.HTTPConnection | None = None
        self._refused_since: float | None = None
        self._sent_at = 0.0
        self.delivered = threading.Event()
        threading.Thread(target=self._run, name="report", daemon=True).start()

    def enter(self, phase: Phase, message: str = "") -> None:
        """Note and report that the host is in a phase, or that there is something new to say about it."""
        with self._changed:
            self._note(phase, message)
        self._wake(urgent=True)

    def tell(self, phase: Phase, message: str) -> None:
        """Note and report news of a phase, unless the host has left it meanwhile."""
        with self._changed:
            if not self._phases or self._phases[-1].phase != phase:
                return
            self._note(phase, message)
        self._wake(urgent=True)

    def serve_at(self, address: str | None) -> None:
        """Note where a replica serves; a phase that is entered next tells it."""
        with self._changed:
            self._address = address

    def end(self, ending: Ending) -> None:
        """Report how the host ended; `delivered` is set once the server has everything."""
        self._logs.sync()
        self._metrics.sync()
        self.enter(Phase.ENDED)
        with self._changed:
            self._ending = ending
            self._save("ending.json", ending.model_dump(mode="json"), durable=True)
        self._wake(urgent=True)

    def log(self, lines: Sequence[Line]) -> None:
        """Note lines of the job's log."""
        self._logs.append([{"timestamp_ms": at, "message": text} for at, text in lines])
        self._syncer.notice()
        self._wake(urgent=False)

    def notice(self, text: str) -> None:
        """Note a line of Clary's own in the job's log."""
        self.log([(time.time_ns() // 1_000_000, text)])

    def measure(self, points: Sequence[dict[str, Any]]) -> None:
        """Note metric points, as `metrics.point` makes them."""
        if points:
            self._metrics.append(points)
            self._syncer.notice()
            self._wake(urgent=False)

    def await_order(self, waiting: bool) -> None:
        """Ask often while the host can do nothing without the server's word."""
        self._awaiting_order = waiting
        self._wake(urgent=True)

    def _note(self, phase: Phase, message: str) -> None:
        self._phases.append(PhaseChange(phase=phase, timestamp=dt.datetime.now(dt.UTC), message=message))
        self._save("phases.json", [entry.model_dump(mode="json") for entry in self._phases])

    def _wake(self, *, urgent: bool) -> None:
        with self._changed:
            self._dirty = True
            self._urgent = self._urgent or urgent
            self._changed.notify_all()

    def _run(self) -> None:
        failures = 0
        while not self.delivered.is_set():
            self._wait_for_news()
            orders = self._send()
            if orders is None:
                pause = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
                failures += 1
                time.sleep(pause)
                self._wake(urgent=True)
                continue
            failures = 0
            if self._logs.acknowledged < self._logs.count or self._metrics.acknowledged < self._metrics.count:
                self._wake(urgent=True)
            elif self._ending is not None and orders.ending_received:
                self.delivered.set()
            self._on_orders(orders)

    def _wait_for_news(self) -> None:
        patience = WAITING_SECONDS if self._awaiting_order or self._ending is not None else HEARTBEAT_SECONDS
        with self._changed:
            if not self._dirty:
                self._changed.wait(patience)
            if self._dirty and not self._urgent:
                quiet = time.monotonic() - self._sent_at
                self._changed.wait_for(lambda: self._urgent, max(COALESCE_SECONDS - quiet, 0))
            self._dirty = self._urgent = False

    def _send(self) -> HostOrders | None:
        """One report; None when the server was not there to take it."""
        body = self._body()
        self._sent_at = time.monotonic()
        try:
            status, answer = self._post(body)
            if status != 200:
                return self._refused(status, answer)
            orders = _orders(answer)
        except (OSError, http.client.HTTPException):
            self._drop_connection()
            return None
        except ValueError as error:
            print(f"the server's answer was not understood: {error}", flush=True)
            self._drop_connection()
            return None
        self._refused_since = None
        self._logs.acknowledge(orders.logs_received)
        self._metrics.acknowledge(orders.metrics_received)
        return orders

    def _body(self) -> bytes:
        with self._changed:
            phases = [change.model_dump(mode="json") for change in self._phases]
            ending = None if self._ending is None else self._ending.model_dump(mode="json")
            address = self._address
        logs, _ = self._logs.batch()
        metrics, _ = self._metrics.batch()
        head = json.dumps({"host_id": self._spec.host_id, "phases": phases, "address": address})
        # The ending goes with the last lines, never before them.
        complete = (
            self._logs.acknowledged + len(logs) >= self._logs.count
            and self._metrics.acknowledged + len(metrics) >= self._metrics.count
        )
        return b'%s, "logs": [%s], "metrics": [%s], "ending": %s}' % (
            head[:-1].encode(),
            b",".join(logs),
            b",".join(metrics),
            json.dumps(ending if complete else None).encode(),
        )

    def _post(self, body: bytes) -> tuple[int, bytes]:
        url = urlsplit(self._spec.report_url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        if self._connection is None:
            self._connection = kind(url.hostname or "127.0.0.1", url.port, timeout=30)
        headers = {"Authorization": f"Bearer {self._spec.report_token}", "Content-Type": "application/json"}
        try:
            self._connection.request("POST", url.path, body, headers)
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # The server closed a connection that had been idle, or was restarted: once more on a new one.
            self._drop_connection()
            self._connection = kind(url.hostname or "127.0.0.1", url.port, timeout=30)
            self._connection.request("POST", url.path, body, headers)
            response = self._connection.getresponse()
        return response.status, response.read()

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _refused(self, status: int, answer: bytes) -> HostOrders | None:
        """A server that for a minute says it knows no such host has forgotten it: nothing is left to work for."""
        print(f"report refused: {status} {answer[:300]!r}", flush=True)
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        if status in {401, 403, 404, 410} and now - self._refused_since > _FORGOTTEN_SECONDS:
            self.delivered.set()
            return HostOrders(wanted="abort", ending_received=True)
        return None

    def _save(self, name: str, value: object, *, durable: bool = False) -> None:
        path = self._folder.spool / name
        temporary = path.with_suffix(".new")
        with temporary.open("w") as file:
            json.dump(value, file)
            if durable:
                file.flush()
                os.fdatasync(file.fileno())
        temporary.replace(path)


def _orders(answer: bytes) -> HostOrders:
    """The server's orders; a newer server may give some that this host does not know."""
    members = json.loads(answer)
    return HostOrders.model_validate({name: members[name] for name in HostOrders.model_fields if name in members})


def remaining(folder: HostFolder, host_id: str) -> HostReport:
    """Everything that a host spooled, as one report: for a server whose host was killed before it could send it."""
    phases = folder.spool / "phases.json"
    ending = folder.spool / "ending.json"
    return HostReport.model_validate(
        {
            "host_id": host_id,
            "phases": json.loads(phases.read_text()) if phases.exists() else [],
            "logs": read_records(folder.spool / "logs.jsonl"),
            "metrics": read_records(folder.spool / "metrics.jsonl"),
            "ending": json.loads(ending.read_text()) if ending.exists() else None,
        }
    )
