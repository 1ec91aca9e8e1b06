"""Prints a job's or endpoint's log events as they come, each once, those of several hosts beside each other."""

from __future__ import annotations

import datetime as dt
import json
import sys
from typing import Any

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")


class LogFollower:
    """Remembers how far each host's stream has been read.

    Args:
        logs: a client of CloudWatch Logs.
        group: the log group.
        job: the job's name: its streams begin with it. None: all streams of the group.
        host: print this host only.
        timestamps: begin each line with its local time.
        as_json: print one JSON object a line.
    """

    def __init__(
        self, logs: Any, group: str, job: str | None, *, host: str | None, timestamps: bool, as_json: bool
    ) -> None:
        self._logs = logs
        self._group = group
        self._prefix = f"{job}/" if job else ""
        self._host = host
        self._timestamps = timestamps
        self._as_json = as_json
        self._tokens: dict[str, str] = {}
        self._streams: list[str] = []

    def print_new(self) -> int:
        """Print what has come since the last call; answers how many events that was."""
        self._find_streams()
        events: list[tuple[int, str, str]] = []
        for stream in self._streams:
            events += [(event["timestamp"], stream, event["message"]) for event in self._new(stream)]
        events.sort(key=lambda event: event[0])  # stable: the order within a stream stays
        for timestamp, stream, message in events:
            self._print(timestamp, stream, message)
        if events:
            sys.stdout.flush()
        return len(events)

    def _find_streams(self) -> None:
        from botocore.exceptions import ClientError

        prefix = {"logStreamNamePrefix": self._prefix} if self._prefix else {}
        try:
            found = self._logs.describe_log_streams(logGroupName=self._group, **prefix)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return  # nothing has been written yet
            raise
        names = [stream["logStreamName"] for stream in found["logStreams"]]
        self._streams = sorted(name for name in names if self._host is None or self._host_of(name) == self._host)

    def _new(self, stream: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while True:
            position = {"nextToken": self._tokens[stream]} if stream in self._tokens else {}
            page = self._logs.get_log_events(
                logGroupName=self._group, logStreamName=stream, startFromHead=True, **position
            )
            self._tokens[stream] = page["nextForwardToken"]
            if not page["events"]:
                return events
            events += page["events"]

    def _print(self, timestamp: int, stream: str, message: str) -> None:
        host = self._host_of(stream)
        when = dt.datetime.fromtimestamp(timestamp / 1000, dt.UTC)
        if self._as_json:
            print(json.dumps({"time": when.isoformat(), "host": host, "message": message}, ensure_ascii=False))
            return
        parts = [when.astimezone().strftime("%H:%M:%S.%f")[:-3]] if self._timestamps else []
        if len(self._streams) > 1:
            parts.append(self._coloured(f"{host} |", self._streams.index(stream)))
        sys.stdout.write(" ".join([*parts, message]).encode("utf-8", "replace").decode() + "\n")

    def _host_of(self, stream: str) -> str:
        """`job/algo-1-1700000000` is a stream of algo-1."""
        name = stream.removeprefix(self._prefix)
        return "-".join(name.split("-")[:2])

    def _coloured(self, text: str, number: int) -> str:
        if not sys.stdout.isatty():
            return text
        from rich.console import Console

        console = Console(highlight=False)
        with console.capture() as capture:
            console.print(text, style=_COLOURS[number % len(_COLOURS)], end="")
        return capture.get()
