"""Data capture: what went into an endpoint and what came out, as lines of JSON in the store.

Files lie at <destination>/<endpoint>/<variant>/yyyy/mm/dd/hh/<file>.jsonl. Lines are gathered in memory for a few
seconds; an invocation never waits for the store. Source: "Capture data from real-time endpoint", AWS.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import logging
import random
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from clary.storage.client import parse_s3_uri
from clary.storage.errors import StoreError

WRITE_SECONDS = 5.0
MAX_WAITING_BYTES = 64 << 20  # more than this is not kept while the store is away

_log = logging.getLogger(__name__)


class Objects(Protocol):
    """Where lines are written; `storage.known.KnownStore` is one."""

    async def write(self, bucket: str, key: str, content: bytes) -> object:
        """Write an object; raises StoreError."""
        ...


@dataclass(frozen=True)
class Invoked:
    """One invocation that went well, as far as capture is concerned."""

    endpoint: str
    variant: str
    content_type: str
    body: bytes
    answer_type: str
    answer: bytes
    inference_id: str | None = None
    custom_attributes: str | None = None


@dataclass
class Capture:
    """Gathers lines and writes them. Used in one event loop."""

    _lines: dict[tuple[str, str], list[bytes]] = field(default_factory=lambda: dict[tuple[str, str], list[bytes]]())
    _bytes: int = 0
    _lost: int = 0

    def note(self, config: Mapping[str, Any], invoked: Invoked) -> None:
        """Take an invocation down, if it is among those to be sampled.

        Args:
            config: the endpoint's DataCaptureConfig.
            invoked: what went in and came out.
        """
        if random.random() * 100 >= config["InitialSamplingPercentage"]:
            return
        now = dt.datetime.now(dt.UTC)
        line = orjson.dumps(_event(config, invoked, now)) + b"\n"
        if self._bytes + len(line) > MAX_WAITING_BYTES:
            self._lost += 1
            return
        self._bytes += len(line)
        folder = f"{invoked.endpoint}/{invoked.variant}/{now:%Y/%m/%d/%H}"
        self._lines.setdefault((config["DestinationS3Uri"], folder), []).append(line)

    async def run(self, store: Objects, stop: asyncio.Event) -> None:
        """Write every few seconds until `stop`, and what is left then."""
        while not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITE_SECONDS):
                    await stop.wait()
            await self.write(store)

    async def write(self, store: Objects) -> None:
        """Bring all lines to the store; those that it does not take are kept for the next time."""
        if self._lost:
            _log.warning("%d captured invocations were dropped: the store did not take them in time", self._lost)
            self._lost = 0
        waiting, self._lines = self._lines, {}
        for (destination, folder), lines in waiting.items():
            try:
                await _write(store, destination, folder, lines)
            except (StoreError, ValueError) as error:
                _log.warning("captured invocations could not be written to %s: %s", destination, error)
                self._lines.setdefault((destination, folder), [])[:0] = lines
            else:
                self._bytes -= sum(map(len, lines))


async def _write(store: Objects, destination: str, folder: str, lines: Sequence[bytes]) -> None:
    bucket, prefix = parse_s3_uri(destination)
    name = f"{dt.datetime.now(dt.UTC):%M-%S-%f}-{uuid.uuid4()}.jsonl"
    await store.write(bucket, "/".join(part for part in (prefix.strip("/"), folder, name) if part), b"".join(lines))


def _event(config: Mapping[str, Any], invoked: Invoked, now: dt.datetime) -> dict[str, Any]:
    types: Mapping[str, Any] = config.get("CaptureContentTypeHeader") or {}
    modes = {option["CaptureMode"] for option in config["CaptureOptions"]}
    data: dict[str, Any] = {}
    if modes & {"Input", "InputAndOutput"}:
        data["endpointInput"] = _side("INPUT", invoked.content_type, invoked.body, types)
    if modes & {"Output", "InputAndOutput"}:
        data["endpointOutput"] = _side("OUTPUT", invoked.answer_type, invoked.answer, types)
    metadata = {"eventId": str(uuid.uuid4())}
    if invoked.custom_attributes is not None:
        metadata["customAttributes"] = invoked.custom_attributes
    if invoked.inference_id is not None:
        metadata["inferenceId"] = invoked.inference_id
    metadata["inferenceTime"] = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"captureData": data, "eventMetadata": metadata, "eventVersion": "0"}


def _side(mode: str, content_type: str, body: bytes, types: Mapping[str, Any]) -> dict[str, str]:
    kind = content_type.partition(";")[0].strip().lower()
    encoding = "BASE64"
    for name, member in (("CSV", "CsvContentTypes"), ("JSON", "JsonContentTypes")):
        if kind in {listed.lower() for listed in types.get(member, ())}:
            encoding = name
    try:
        text = body.decode() if encoding != "BASE64" else ""
    except UnicodeDecodeError:
        encoding, text = "BASE64", ""
    if encoding == "BASE64":
        text = base64.b64encode(body).decode()
    return {"observedContentType": content_type, "mode": mode, "data": text, "encoding": encoding}
