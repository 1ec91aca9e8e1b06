"""What an endpoint was asked and what it answered lies in the store as SageMaker's own lines."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from clary.inference.capture import Capture, Invoked
from clary.storage.client import ObjectStore
from clary.storage.errors import StoreUnreachable


def config(bucket: str, **changes: Any) -> dict[str, Any]:
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": f"s3://{bucket}/captured/",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
    } | changes


def invoked(**changes: Any) -> Invoked:
    given: dict[str, Any] = {
        "endpoint": "e",
        "variant": "v",
        "content_type": "text/csv",
        "body": b"1,2",
        "answer_type": "application/json; charset=utf-8",
        "answer": b'{"predictions": [1]}',
    }
    return Invoked(**given | changes)


async def lines(store: ObjectStore, bucket: str) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    async for info in store.list_objects(bucket):
        content = await store.read(bucket, info.key)
        found += [(info.key, json.loads(line)) for line in content.splitlines()]
    return found


async def test_lines_lie_under_endpoint_variant_and_hour(object_store: ObjectStore, bucket: str) -> None:
    capture = Capture()
    capture.note(config(bucket), invoked(inference_id="mine"))
    capture.note(config(bucket), invoked(content_type="application/x-npy", body=b"\x93NUMPY"))
    await capture.write(object_store)
    (key, first), (other, second) = await lines(object_store, bucket)
    assert key == other
    assert re.fullmatch(r"captured/e/v/\d{4}/\d\d/\d\d/\d\d/[\w-]+\.jsonl", key)
    assert first["captureData"] == {
        "endpointInput": {"observedContentType": "text/csv", "mode": "INPUT", "data": "1,2", "encoding": "CSV"},
        "endpointOutput": {
            "observedContentType": "application/json; charset=utf-8",
            "mode": "OUTPUT",
            "data": '{"predictions": [1]}',
            "encoding": "JSON",
        },
    }
    assert first["eventMetadata"]["inferenceId"] == "mine"
    assert first["eventVersion"] == "0"
    assert second["captureData"]["endpointInput"]["encoding"] == "BASE64"
    assert base64.b64decode(second["captureData"]["endpointInput"]["data"]) == b"\x93NUMPY"


async def test_only_what_is_asked_for_is_captured(object_store: ObjectStore, bucket: str) -> None:
    capture = Capture()
    capture.note(config(bucket, CaptureOptions=[{"CaptureMode": "Output"}]), invoked())
    capture.note(config(bucket, InitialSamplingPercentage=0), invoked())
    await capture.write(object_store)
    ((_, line),) = await lines(object_store, bucket)
    assert list(line["captureData"]) == ["endpointOutput"]


async def test_lines_wait_for_a_store_that_is_away(object_store: ObjectStore, bucket: str) -> None:
    class Away:
        async def write(self, *_: object) -> None:
            raise StoreUnreachable("it is restarted")

    capture = Capture()
    capture.note(config(bucket), invoked())
    await capture.write(Away())  # type: ignore[arg-type]
    await capture.write(object_store)
    assert len(await lines(object_store, bucket)) == 1
