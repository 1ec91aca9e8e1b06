"""Checkpoints go up as they are written, and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from clary.host import folder_sync
from clary.host.folder_sync import FolderSync, restore
from clary.storage.client import ObjectStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_sync, "PERIOD_SECONDS", 0.1)


async def keys(store: ObjectStore, bucket: str) -> list[str]:
    return [info.key async for info in store.list_objects(bucket, "run/")]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.05)


async def test_a_file_goes_up_while_the_job_runs_and_is_marked(
    object_store: ObjectStore, bucket: str, folder: Path
) -> None:
    sync = FolderSync(object_store.access, folder, f"s3://{bucket}/run", lambda _: None)
    sync.start()
    (folder / "epoch").mkdir()
    (folder / "epoch" / "weights").write_bytes(b"first")
    await until((folder / "epoch" / "weights.sagemaker-uploaded").exists)
    assert await object_store.read(bucket, "run/epoch/weights") == b"first"
    await asyncio.to_thread(sync.finish)
    assert await keys(object_store, bucket) == ["run/epoch/weights"], "the markers stay here"


async def test_what_was_written_last_is_there_when_it_ends(
    object_store: ObjectStore, bucket: str, folder: Path
) -> None:
    sync = FolderSync(object_store.access, folder, f"s3://{bucket}/run/", lambda _: None)
    sync.start()
    (folder / "weights").write_bytes(b"last")
    await asyncio.to_thread(sync.finish)
    assert await object_store.read(bucket, "run/weights") == b"last"


async def test_a_file_deleted_here_is_deleted_there_and_others_are_left_alone(
    object_store: ObjectStore, bucket: str, folder: Path
) -> None:
    await object_store.write(bucket, "run/of-another-job", b"x")
    sync = FolderSync(object_store.access, folder, f"s3://{bucket}/run", lambda _: None)
    sync.start()
    (folder / "old").write_bytes(b"1")
    await until((folder / "old.sagemaker-uploaded").exists)
    (folder / "old").unlink()
    await asyncio.to_thread(sync.finish)
    assert await keys(object_store, bucket) == ["run/of-another-job"]
    assert not list(folder.iterdir()), "its marker goes with it"


async def test_ignored_files_and_links_stay_here(
    object_store: ObjectStore, bucket: str, folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not the job's")
    (folder / "scratch").write_bytes(b"1")
    (folder / "scratch.sagemaker-ignore").touch()
    (folder / "link").symlink_to(secret)
    (folder / "folder-link").symlink_to(tmp_path)
    sync = FolderSync(object_store.access, folder, f"s3://{bucket}/run", lambda _: None)
    sync.start()
    (folder / "kept").write_bytes(b"1")
    await asyncio.to_thread(sync.finish)
    assert await keys(object_store, bucket) == ["run/kept"]


async def test_what_an_earlier_attempt_left_comes_back_and_is_not_sent_again(
    object_store: ObjectStore, bucket: str, folder: Path
) -> None:
    await object_store.write(bucket, "run/epoch/weights", b"earlier")
    before = [info.modified async for info in object_store.list_objects(bucket, "run/")]
    await restore(object_store, f"s3://{bucket}/run", folder)
    assert (folder / "epoch" / "weights").read_bytes() == b"earlier"
    sync = FolderSync(object_store.access, folder, f"s3://{bucket}/run", lambda _: None)
    sync.start()
    await asyncio.to_thread(sync.finish)
    assert [info.modified async for info in object_store.list_objects(bucket, "run/")] == before
