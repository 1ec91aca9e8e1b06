"""File-mode channels from a real store: which objects, where they land, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from clary.host.channels import channel_files, download_channels
from clary.host.spec import Channel, HostSpec, Limits, Output, Peer
from clary.host.transfers import TransferError
from clary.storage.client import ObjectStore


def spec(store: ObjectStore, *channels: Channel, host: int = 1, hosts: int = 1, disk: int | None = None) -> HostSpec:
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
        channels=channels,
        limits=Limits(cpus=1, memory_bytes=1 << 30, max_runtime_seconds=60, disk_bytes=disk),
        output=Output(model_uri="s3://b/m.tar.gz", output_uri=None, staging_uri="s3://b/staging"),
        store=store.access,
        report_url="http://127.0.0.1:1",
        report_token="t",
        images_home="/nowhere",
    )


def channel(bucket: str, path: str, **fields: Any) -> Channel:
    return Channel(name="train", s3_uri=f"s3://{bucket}/{path}", **fields)


async def fill(store: ObjectStore, bucket: str, *keys: str) -> None:
    for key in keys:
        await store.write(bucket, key, key.encode())


async def downloaded(store: ObjectStore, order: HostSpec, folder: Path) -> dict[str, bytes]:
    await download_channels(order, store, folder, lambda size, objects: None)
    root = folder / "train"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("prefix", ["data", "data/"])
async def test_a_folder_lands_with_its_tree(
    object_store: ObjectStore, bucket: str, tmp_path: Path, prefix: str
) -> None:
    await fill(object_store, bucket, "data/a.csv", "data/deep/er/b.csv", "data/é ü+%.csv", "other/c.csv")
    await object_store.write(bucket, "data/empty.csv", b"")
    await object_store.call("PUT", bucket, "data/folder/")
    found = await downloaded(object_store, spec(object_store, channel(bucket, prefix)), tmp_path)
    assert found == {
        "a.csv": b"data/a.csv",
        "deep/er/b.csv": b"data/deep/er/b.csv",
        "empty.csv": b"",
        "é ü+%.csv": "data/é ü+%.csv".encode(),
    }


async def test_a_prefix_is_a_string_and_one_object_lands_by_its_name(
    object_store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    await fill(object_store, bucket, "data/part-1.csv", "data/part-2.csv", "data/zzz.csv")
    both = await downloaded(object_store, spec(object_store, channel(bucket, "data/part-")), tmp_path / "a")
    assert list(both) == ["part-1.csv", "part-2.csv"]
    one = await downloaded(object_store, spec(object_store, channel(bucket, "data/zzz.csv")), tmp_path / "b")
    assert one == {"zzz.csv": b"data/zzz.csv"}


async def test_a_large_object_arrives_whole_and_progress_is_told(
    object_store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    content = os.urandom((20 << 20) + 7)
    await object_store.write(bucket, "big/file.bin", content)
    told: list[tuple[int, int]] = []
    order = spec(object_store, channel(bucket, "big/"))
    await download_channels(order, object_store, tmp_path, lambda size, objects: told.append((size, objects)))
    assert (tmp_path / "train" / "file.bin").read_bytes() == content
    assert (sum(size for size, _ in told), sum(objects for _, objects in told)) == (len(content), 1)
    assert len(told) > 1
    assert os.access(tmp_path / "train" / "file.bin", os.W_OK)


async def test_shards_are_disjoint_complete_and_the_same_each_time(object_store: ObjectStore, bucket: str) -> None:
    await fill(object_store, bucket, *(f"s/{number}" for number in range(10)))
    part = channel(bucket, "s/", distribution="ShardedByS3Key")
    shards = [
        list((await channel_files(part, spec(object_store, part, host=host, hosts=3), object_store)).by_path)
        for host in (1, 2, 3)
    ]
    assert shards == [["0", "3", "6", "9"], ["1", "4", "7"], ["2", "5", "8"]]


async def test_a_seed_shuffles_the_order_the_same_way_each_time(object_store: ObjectStore, bucket: str) -> None:
    await fill(object_store, bucket, *(f"s/{number}" for number in range(10)))
    orders = [
        list((await channel_files(one, spec(object_store, one), object_store)).by_path)
        for one in [channel(bucket, "s/", shuffle_seed=seed) for seed in (None, 1, 1, 2)]
    ]
    assert orders[0] == sorted(orders[1])
    assert orders[1] == orders[2] != orders[0]
    assert orders[3] not in (orders[0], orders[1])


async def test_a_manifest_names_its_objects(object_store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    await fill(object_store, bucket, "d/a.csv", "d/deep/b.csv", "d/not-named.csv")
    manifest = [{"prefix": f"s3://{bucket}/d/"}, "a.csv", "deep/b.csv"]
    await object_store.write(bucket, "train.manifest", json.dumps(manifest).encode())
    listed = channel(bucket, "train.manifest", data_type="ManifestFile")
    found = await downloaded(object_store, spec(object_store, listed), tmp_path)
    assert found == {"a.csv": b"d/a.csv", "deep/b.csv": b"d/deep/b.csv"}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"nonsense", "is not JSON"),
        (b"[]", "must be a list"),
        (b'["a.csv"]', "must be a list"),
        (b'[{"prefix": "s3://BUCKET/d/"}, 5]', "Received the entry: 5"),
        (b'[{"prefix": "s3://BUCKET/d/"}, "none.csv"]', "there is no object s3://BUCKET/d/none.csv"),
        (b'[{"prefix": "s3://BUCKET/d/"}, "../../etc/passwd"]', "cannot be a file below"),
    ],
)
async def test_a_wrong_manifest_is_explained(object_store: ObjectStore, bucket: str, content: bytes, text: str) -> None:
    await object_store.write(bucket, "m", content.replace(b"BUCKET", bucket.encode()))
    listed = channel(bucket, "m", data_type="ManifestFile")
    with pytest.raises(TransferError) as caught:
        await channel_files(listed, spec(object_store, listed), object_store)
    assert text.replace("BUCKET", bucket) in str(caught.value)
    assert caught.value.by_request


@pytest.mark.parametrize("address", ["s3://BUCKET/nothing/here", "s3://there-is-no-such-bucket/x"])
async def test_nothing_found_is_told_as_aws_tells_it(object_store: ObjectStore, bucket: str, address: str) -> None:
    empty = Channel(name="train", s3_uri=address.replace("BUCKET", bucket))
    with pytest.raises(TransferError) as caught:
        await channel_files(empty, spec(object_store, empty), object_store)
    assert str(caught.value).startswith(
        f'No S3 objects found under S3 URL "{empty.s3_uri}" given in input data source. Please ensure that the bucket '
        "exists in the selected region (us-east-1), that objects exist under that S3 prefix"
    )


async def test_more_than_the_volume_holds_is_refused_before_it_is_downloaded(
    object_store: ObjectStore, bucket: str, tmp_path: Path
) -> None:
    await fill(object_store, bucket, "d/0123456789")
    with pytest.raises(TransferError, match="VolumeSizeInGB"):
        await downloaded(object_store, spec(object_store, channel(bucket, "d/"), disk=5), tmp_path)
    assert not (tmp_path / "train").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small disk")
async def test_a_full_disk_is_told_as_such(object_store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    import subprocess

    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("needs the privilege to mount a file system")
    try:
        for size in (2 << 20, 20 << 20):
            await object_store.write(bucket, "d/big", os.urandom(size))
            with pytest.raises(TransferError, match=f'The disk is full: channel "train" needs {size} bytes'):
                await downloaded(object_store, spec(object_store, channel(bucket, "d/")), tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


async def test_pipe_mode_is_refused_here(object_store: ObjectStore, bucket: str) -> None:
    piped = channel(bucket, "x", input_mode="Pipe")
    with pytest.raises(TransferError, match="Pipe mode is not offered yet"):
        await channel_files(piped, spec(object_store, piped), object_store)


async def test_keys_that_cannot_be_files_beside_each_other_are_named(object_store: ObjectStore, bucket: str) -> None:
    await fill(object_store, bucket, "d/a", "d/a/b")
    both = channel(bucket, "d/")
    with pytest.raises(TransferError, match="the object 'd/a' would be a file and, for 'd/a/b', a folder"):
        await channel_files(both, spec(object_store, both), object_store)
