"""Results on their way to a real store: archives as SageMaker makes them, parts merged, nothing followed."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Literal

import pytest

from clary.host.outputs import merge_results, stage_results, upload_results
from clary.host.spec import HostSpec, Limits, Output, Peer
from clary.storage.client import ObjectStore
from clary.storage.errors import BucketMissing


def spec(
    store: ObjectStore, bucket: str, host: int = 1, hosts: int = 1, compression: Literal["GZIP", "NONE"] = "GZIP"
) -> HostSpec:
    model = "out/job/output/model" + (".tar.gz" if compression == "GZIP" else "/")
    return HostSpec(
        host_id=f"job-{host}",
        job_name="job",
        job_arn="arn:aws:sagemaker:us-east-1:000000000000:training-job/job",
        host=f"algo-{host}",
        peers=tuple(
            Peer(name=f"algo-{number}", instance_type="ml.m5.large", instance_group="")
            for number in range(1, hosts + 1)
        ),
        image="image",
        environment={},
        hyperparameters={},
        limits=Limits(cpus=1, memory_bytes=1 << 30, max_runtime_seconds=60),
        output=Output(
            model_uri=f"s3://{bucket}/{model}",
            output_uri=f"s3://{bucket}/out/job/output/output.tar.gz",
            compression=compression,
            staging_uri=f"s3://{bucket}/out/job/staging/",
        ),
        store=store.access,
        report_url="http://127.0.0.1:1",
        report_token="t",
        images_home="/nowhere",
    )


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    model, output = tmp_path / "model", tmp_path / "data"
    model.mkdir()
    output.mkdir()
    return model, output


async def members(store: ObjectStore, bucket: str, name: str = "model") -> dict[str, bytes | None]:
    content = await store.read(bucket, f"out/job/output/{name}.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        return {
            found.name: file.read() if (file := tar.extractfile(found)) else None for found in tar if not found.issym()
        }


async def test_the_model_is_an_archive_with_its_files_at_the_root(
    object_store: ObjectStore, bucket: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    model, output = folders
    (model / "1").mkdir()
    (model / "1" / "saved_model.pb").write_bytes(b"graph")
    (model / "big.bin").write_bytes(os.urandom(30 << 20))
    (output / "history.json").write_text("{}")
    address = await upload_results(spec(object_store, bucket), object_store, model, output, with_model=True)
    assert address == f"s3://{bucket}/out/job/output/model.tar.gz"
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(await object_store.read(bucket, "out/job/output/model.tar.gz"))
    listed = subprocess.run(["tar", "tzf", str(archive)], capture_output=True, text=True, check=True).stdout.split()
    assert listed == ["1/", "1/saved_model.pb", "big.bin"]
    assert (await members(object_store, bucket))["big.bin"] == (model / "big.bin").read_bytes()
    assert await members(object_store, bucket, "output") == {"history.json": b"{}"}


async def test_an_empty_model_is_still_an_archive_and_empty_output_is_none(
    object_store: ObjectStore, bucket: str, folders: tuple[Path, Path]
) -> None:
    await upload_results(spec(object_store, bucket), object_store, *folders, with_model=True)
    assert await members(object_store, bucket) == {}
    assert await object_store.head(bucket, "out/job/output/output.tar.gz") is None


async def test_a_failed_job_uploads_its_output_but_no_model(
    object_store: ObjectStore, bucket: str, folders: tuple[Path, Path]
) -> None:
    (folders[0] / "half").write_text("x")
    (folders[1] / "log").write_text("x")
    assert await upload_results(spec(object_store, bucket), object_store, *folders, with_model=False) is None
    assert [info.key async for info in object_store.list_objects(bucket)] == ["out/job/output/output.tar.gz"]


async def test_links_are_kept_not_followed_and_special_files_left_out(
    object_store: ObjectStore, bucket: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    model, output = folders
    (tmp_path / "secret").write_text("secret")
    (model / "file").write_text("content")
    (model / "twin").hardlink_to(model / "file")
    (model / "link").symlink_to(tmp_path / "secret")
    (model / "folder").symlink_to(tmp_path)
    os.mkfifo(model / "pipe")
    await upload_results(spec(object_store, bucket), object_store, model, output, with_model=True)
    content = await object_store.read(bucket, "out/job/output/model.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        kinds = {found.name: found.type for found in tar}
    assert kinds == {"file": b"0", "twin": b"0", "link": b"2", "folder": b"2"}
    assert await members(object_store, bucket) == {"file": b"content", "twin": b"content"}


async def test_odd_names_and_sparse_files_survive(
    object_store: ObjectStore, bucket: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    model, output = folders
    (model / ("n" * 200)).write_text("long")
    (model / "é 日本").write_text("wide")
    (model / "empty").mkdir()
    Path(os.fsdecode(os.fsencode(model) + b"/bad-\xff")).write_text("bytes")
    with (model / "sparse").open("wb") as file:
        file.truncate(50 << 20)
    await upload_results(spec(object_store, bucket), object_store, model, output, with_model=True)
    content = await object_store.read(bucket, "out/job/output/model.tar.gz")
    assert len(content) < 2 << 20
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        tar.extractall(tmp_path / "back", filter="data")
    assert {path.name for path in (tmp_path / "back").iterdir()} == {path.name for path in model.iterdir()}
    assert (tmp_path / "back" / "sparse").stat().st_size == 50 << 20


async def test_an_uncompressed_model_is_one_object_a_file(
    object_store: ObjectStore, bucket: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    model, output = folders
    (model / "1").mkdir()
    (model / "1" / "weights").write_bytes(b"w")
    (model / "config.json").write_bytes(b"{}")
    (model / "link").symlink_to(tmp_path)
    order = spec(object_store, bucket, compression="NONE")
    await upload_results(order, object_store, model, output, with_model=True)
    keys = [info.key async for info in object_store.list_objects(bucket)]
    assert keys == ["out/job/output/model/1/weights", "out/job/output/model/config.json"]


async def test_the_parts_of_several_hosts_become_one(object_store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    places: list[tuple[Path, Path]] = []
    for host in (1, 2, 3):
        model, output = tmp_path / str(host) / "model", tmp_path / str(host) / "data"
        model.mkdir(parents=True)
        output.mkdir()
        (model / f"shard-{host}").write_text(str(host))
        (model / "same").write_text(f"of {host}")
        places.append((model, output))
    (places[2][1] / "notes").write_text("of the third")
    for host in (2, 3):
        await stage_results(spec(object_store, bucket, host, 3), object_store, *places[host - 1])
    address = await merge_results(spec(object_store, bucket, 1, 3), object_store, *places[0], tmp_path / "scratch")
    assert address == f"s3://{bucket}/out/job/output/model.tar.gz"
    assert await members(object_store, bucket) == {"same": b"of 1", "shard-1": b"1", "shard-2": b"2", "shard-3": b"3"}
    assert await members(object_store, bucket, "output") == {"notes": b"of the third"}
    keys = [info.key async for info in object_store.list_objects(bucket)]
    assert keys == ["out/job/output/model.tar.gz", "out/job/output/output.tar.gz"]
    assert list((tmp_path / "scratch").iterdir()) == []


async def test_a_missing_bucket_is_told(object_store: ObjectStore, folders: tuple[Path, Path]) -> None:
    with pytest.raises(BucketMissing, match='"there-is-none"'):
        await upload_results(spec(object_store, "there-is-none"), object_store, *folders, with_model=True)


async def test_a_file_that_cannot_be_read_leaves_no_half_model(
    object_store: ObjectStore, bucket: str, folders: tuple[Path, Path], monkeypatch: Any
) -> None:
    import clary.host.outputs as outputs

    model, output = folders
    (model / "a").write_bytes(os.urandom(40 << 20))
    (model / "b").write_bytes(b"x")
    opened = outputs._open

    def fail_on_b(path: Path) -> Any:
        if path.name == "b":
            raise OSError(5, "Input/output error", str(path))
        return opened(path)

    monkeypatch.setattr(outputs, "_open", fail_on_b)
    with pytest.raises(OSError, match="Input/output error"):
        await upload_results(spec(object_store, bucket), object_store, model, output, with_model=True)
    assert await object_store.head(bucket, "out/job/output/model.tar.gz") is None
    _, uploads = await object_store.call("GET", bucket, query={"uploads": None})
    assert b"<Upload>" not in uploads
