"""A model's files come from the store, or the user is told why not."""

from __future__ import annotations

import asyncio
import io
import tarfile
from pathlib import Path

import pytest

from clary.host.model_fetch import fetch_model
from clary.host.serving_spec import ModelSource
from clary.host.transfers import TransferError
from clary.storage.access import StoreAccess
from clary.storage.client import ObjectStore


def archive(**files: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


async def fetch(source: ModelSource, access: StoreAccess, folder: Path) -> set[str]:
    folder.mkdir(exist_ok=True)
    await asyncio.to_thread(fetch_model, source, access, folder)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_an_archive_is_unpacked(
    object_store: ObjectStore, store_access: StoreAccess, bucket: str, tmp_path: Path
) -> None:
    await object_store.write(bucket, "m/model.tar.gz", archive(**{"1/saved_model.pb": b"x", "code/inference.py": b"y"}))
    source = ModelSource(s3_uri=f"s3://{bucket}/m/model.tar.gz")
    assert await fetch(source, store_access, tmp_path / "model") == {"1/saved_model.pb", "code/inference.py"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


async def test_a_prefix_and_a_single_object_are_taken_as_they_are(
    object_store: ObjectStore, store_access: StoreAccess, bucket: str, tmp_path: Path
) -> None:
    for key in ("m/1/saved_model.pb", "m/1/variables/variables.index", "m/"):
        await object_store.write(bucket, key, b"x")
    for number, prefix in enumerate(("m/", "m")):
        source = ModelSource(s3_uri=f"s3://{bucket}/{prefix}", kind="S3Prefix", compression="None")
        found = await fetch(source, store_access, tmp_path / str(number))
        assert found == {"1/saved_model.pb", "1/variables/variables.index"}
    source = ModelSource(s3_uri=f"s3://{bucket}/m/1/saved_model.pb", compression="None")
    assert await fetch(source, store_access, tmp_path / "single") == {"saved_model.pb"}


@pytest.mark.parametrize("kind", ["S3Object", "S3Prefix"])
async def test_a_model_that_is_not_there_is_told(
    store_access: StoreAccess, bucket: str, tmp_path: Path, kind: str
) -> None:
    source = ModelSource.model_validate(
        {"s3_uri": f"s3://{bucket}/none", "kind": kind, "compression": "Gzip" if kind == "S3Object" else "None"}
    )
    with pytest.raises(TransferError, match=f"Could not find model data at s3://{bucket}/none") as caught:
        await fetch(source, store_access, tmp_path / "model")
    assert caught.value.by_request
    missing = ModelSource(s3_uri="s3://no-such-bucket-here/model.tar.gz")
    with pytest.raises(TransferError, match="Could not find model data"):
        await fetch(missing, store_access, tmp_path / "model")


@pytest.mark.parametrize("content", [b"no archive", archive(**{"../outside": b"x"})])
async def test_an_archive_that_is_none_or_unsafe_is_refused(
    object_store: ObjectStore, store_access: StoreAccess, bucket: str, tmp_path: Path, content: bytes
) -> None:
    await object_store.write(bucket, "model.tar.gz", content)
    with pytest.raises(TransferError, match="Failed to extract model data archive") as caught:
        await fetch(ModelSource(s3_uri=f"s3://{bucket}/model.tar.gz"), store_access, tmp_path / "model")
    assert caught.value.by_request
    assert not (tmp_path / "outside").exists()
