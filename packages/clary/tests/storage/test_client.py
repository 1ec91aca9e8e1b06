"""The one client of the store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clary.storage.access import StoreAccess
from clary.storage.client import ObjectStore, parse_s3_uri
from clary.storage.errors import BucketMissing, ObjectMissing, StoreRefused, StoreUnreachable
from clary.storage.transfer import Download, download, upload_file, upload_stream


def test_addresses_are_taken_apart() -> None:
    assert parse_s3_uri("s3://bucket/a/b c") == ("bucket", "a/b c")
    assert parse_s3_uri("s3://bucket") == parse_s3_uri("s3://bucket/") == ("bucket", "")
    for wrong in ("bucket/key", "s3:///key", "https://bucket/key", ""):
        with pytest.raises(ValueError, match="s3://bucket/key"):
            parse_s3_uri(wrong)


async def test_buckets_are_made_once_and_found(object_store: ObjectStore, bucket: str) -> None:
    await object_store.create_bucket(bucket)
    assert await object_store.bucket_exists(bucket)
    assert not await object_store.bucket_exists("there-is-none")
    assert not await object_store.bucket_exists("No_Bucket_Can_Have_This_Name")
    assert not await object_store.any_object("there-is-none", "x")
    with pytest.raises(BucketMissing):
        [info async for info in object_store.list_objects("there-is-none")]
    with pytest.raises(BucketMissing):
        await object_store.write("there-is-none", "k", b"x")


@pytest.mark.parametrize("key", ["plain", "a b+c%d/é ü#?&=.txt", "~t*'()!<>\"", "日本/語", "x" * 200])
async def test_any_key_is_written_read_listed_and_deleted(object_store: ObjectStore, bucket: str, key: str) -> None:
    await object_store.write(bucket, key, b"content")
    assert await object_store.read(bucket, key) == b"content"
    info = await object_store.head(bucket, key)
    assert info is not None
    listed = [found async for found in object_store.list_objects(bucket, key[:1])]
    assert [(found.key, found.size, found.etag) for found in listed] == [(key, 7, info.etag)]
    await object_store.delete(bucket, key)
    assert await object_store.head(bucket, key) is None
    with pytest.raises(ObjectMissing):
        await object_store.read(bucket, key)


async def test_a_prefix_is_a_string_and_listings_have_all_pages(object_store: ObjectStore, bucket: str) -> None:
    await asyncio.gather(*(object_store.write(bucket, f"p/{number:04}", b"") for number in range(1005)))
    assert len([info async for info in object_store.list_objects(bucket, "p/")]) == 1005
    assert len([info async for info in object_store.list_objects(bucket, "p/100")]) == 5
    assert await object_store.any_object(bucket, "p/10")
    assert not await object_store.any_object(bucket, "p/2")


@pytest.mark.parametrize("size", [0, 1, 16 << 20, (16 << 20) + 1, 50 << 20])
async def test_files_go_both_ways(object_store: ObjectStore, bucket: str, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    told: list[tuple[int, int]] = []
    assert await upload_file(object_store, bucket, "f", source, lambda *step: told.append(step)) == size
    info = await object_store.head(bucket, "f")
    assert info is not None
    assert info.size == size
    await download(object_store, bucket, [Download(info, target)])
    assert target.read_bytes() == source.read_bytes()
    assert (sum(step[0] for step in told), sum(step[1] for step in told)) == (size, 1)


async def test_a_stream_that_fails_leaves_nothing(object_store: ObjectStore, bucket: str) -> None:
    async def content() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * (1 << 20)
        raise OSError("the disk broke")

    with pytest.raises(OSError, match="the disk broke"):
        await upload_stream(object_store, bucket, "half", content())
    assert [info async for info in object_store.list_objects(bucket)] == []
    _, uploads = await object_store.call("GET", bucket, query={"uploads": None})
    assert b"<UploadId>" not in uploads


async def test_an_object_replaced_while_it_is_read_is_noticed(
    object_store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    await object_store.write(bucket, "k", b"old")
    info = await object_store.head(bucket, "k")
    assert info is not None
    await object_store.write(bucket, "k", b"new")
    with pytest.raises(StoreRefused, match="PreconditionFailed"):
        await download(object_store, bucket, [Download(info, tmp_path / "k")])


async def test_a_store_that_stays_away_is_reported_after_the_patience() -> None:
    access = StoreAccess(endpoint="http://127.0.0.1:9", access_key="a", secret_key="b", region="us-east-1")
    with pytest.raises(StoreUnreachable, match=r"did not answer within 0\.3 s"):
        await ObjectStore(access, patience=0.3).read("b", "k")


async def test_wrong_keys_are_told(store_access: StoreAccess, bucket: str) -> None:
    wrong = ObjectStore(store_access.model_copy(update={"secret_key": "wrong"}))
    with pytest.raises(StoreRefused, match="SignatureDoesNotMatch"):
        await wrong.read(bucket, "k")
    await wrong.close()
