"""File-mode channels: which objects of the store belong to a channel, where they land, and bringing them there."""

from __future__ import annotations

import asyncio
import errno
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clary.host.transfers import TransferError
from clary.storage.client import ObjectInfo, parse_s3_uri
from clary.storage.errors import BucketMissing
from clary.storage.transfer import Download, download

if TYPE_CHECKING:
    from clary.host.spec import Channel, HostSpec
    from clary.storage.client import ObjectStore

_LOOKUPS_AT_ONCE = 16

Progress = Callable[[int, int], None]
"""Called with the bytes and the objects that were finished since the last call."""


async def download_channels(spec: HostSpec, store: ObjectStore, input_root: Path, progress: Progress) -> None:
    """Fill `input_root`/<channel> for each of the host's channels.

    Args:
        spec: the host's order.
        store: where the objects are.
        input_root: what the job sees as /opt/ml/input/data.
        progress: told of bytes and objects as they arrive.

    Raises:
        TransferError: no objects, keys that cannot be files, more data than the volume holds, a full disk.
        StoreError: the store refuses, or stayed away.
    """
    wanted = {channel.name: await channel_files(channel, spec, store) for channel in spec.channels}
    total = sum(files.size for files in wanted.values())
    if spec.limits.disk_bytes is not None and total > spec.limits.disk_bytes:
        raise TransferError(
            f"The channels hold {total} bytes, more than the volume of {spec.limits.disk_bytes} bytes. "
            "Request more with ResourceConfig.VolumeSizeInGB.",
            by_request=True,
        )
    for name, files in wanted.items():
        folder = input_root / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            await download(store, files.bucket, _downloads(folder, files.by_path), progress)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise TransferError(
                f'The disk is full: channel "{name}" needs {files.size} bytes.', by_request=True
            ) from None


@dataclass(frozen=True)
class ChannelFiles:
    """The objects that one host gets of a channel, by the path at which each lands in the channel's folder."""

    bucket: str
    by_path: dict[str, ObjectInfo]

    @property
    def size(self) -> int:
        """All of them together, in bytes."""
        return sum(info.size for info in self.by_path.values())


async def channel_files(channel: Channel, spec: HostSpec, store: ObjectStore) -> ChannelFiles:
    """What this host gets of a channel.

    Raises:
        TransferError: the channel has no objects, or some that cannot be files beside each other.
    """
    if channel.input_mode != "File":
        raise TransferError(f'Channel "{channel.name}": {channel.input_mode} mode is not offered yet.', by_request=True)
    try:
        if channel.data_type == "S3Prefix":
            bucket, found = await _prefix_objects(channel, store)
        elif channel.data_type == "ManifestFile":
            bucket, found = await _manifest_objects(channel, store)
        else:
            raise TransferError(f'Channel "{channel.name}": {channel.data_type} needs Pipe mode.', by_request=True)
    except BucketMissing:
        bucket, found = "", {}
    if not found:
        bucket, _ = parse_s3_uri(channel.s3_uri)
        raise TransferError(
            f'No S3 objects found under S3 URL "{channel.s3_uri}" given in input data source. Please ensure that the '
            f"bucket exists in the selected region ({store.access.region}), that objects exist under that S3 prefix, "
            f'and that the role of the job has "s3:ListBucket" permissions on bucket "{bucket}".',
            by_request=True,
        )
    _refuse_collisions(channel, found)
    return ChannelFiles(bucket, _share(channel, found, spec))


def _share(channel: Channel, found: dict[str, ObjectInfo], spec: HostSpec) -> dict[str, ObjectInfo]:
    """All objects, or this host's part: in the order of their keys, or a shuffled one, each nth."""
    order = sorted(found, key=lambda path: found[path].key)
    if channel.shuffle_seed is not None:
        random.Random(channel.shuffle_seed).shuffle(order)
    if channel.distribution == "ShardedByS3Key":
        hosts = [peer.name for peer in spec.peers]
        order = order[hosts.index(spec.host) :: len(hosts)]
    return {path: found[path] for path in order}


async def _prefix_objects(channel: Channel, store: ObjectStore) -> tuple[str, dict[str, ObjectInfo]]:
    bucket, prefix = parse_s3_uri(channel.s3_uri)
    found: dict[str, ObjectInfo] = {}
    async for info in store.list_objects(bucket, prefix):
        if info.key.endswith("/"):
            continue  # consoles mark an empty folder so
        _add(channel, found, _below_prefix(info.key, prefix), info)
    return bucket, found


def _below_prefix(key: str, prefix: str) -> str:
    """The path of a key below a prefix, which is a string and need not be a folder.

    "data/train" gives "a.csv" for "data/train/a.csv", "train-2/a.csv" for "data/train-2/a.csv", "train" for itself.
    """
    if prefix.endswith("/") or not prefix:
        return key[len(prefix) :]
    if key.startswith(prefix + "/"):
        return key[len(prefix) + 1 :]
    return key[prefix.rfind("/") + 1 :]


async def _manifest_objects(channel: Channel, store: ObjectStore) -> tuple[str, dict[str, ObjectInfo]]:
    """The objects that a manifest lists: a prefix object, then keys relative to it."""
    prefix, names = _manifest(channel, await store.read(*parse_s3_uri(channel.s3_uri)))
    bucket, base = parse_s3_uri(prefix)
    for name in names:
        _path(channel, name, base + name)
    gate = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

    async def look_up(name: str) -> ObjectInfo | None:
        async with gate:
            return await store.head(bucket, base + name)

    found: dict[str, ObjectInfo] = {}
    for name, info in zip(names, await asyncio.gather(*map(look_up, names)), strict=True):
        if info is None:
            raise TransferError(
                f'Channel "{channel.name}": there is no object s3://{bucket}/{base}{name}, which the manifest '
                f"{channel.s3_uri} names.",
                by_request=True,
            )
        _add(channel, found, name, info)
    return bucket, found


def _manifest(channel: Channel, content: bytes) -> tuple[str, list[str]]:
    """The prefix and the names that a manifest holds."""
    wrong = f'The manifest {channel.s3_uri} of channel "{channel.name}" '
    try:
        entries: Any = json.loads(content)
    except ValueError as error:
        raise TransferError(f"{wrong}is not JSON: {error}", by_request=True) from None
    shape = 'must be a list: {"prefix": "s3://…/"} first, then keys relative to it.'
    if not isinstance(entries, list) or not entries:
        raise TransferError(wrong + shape, by_request=True)
    first, *names = entries  # pyright: ignore[reportUnknownVariableType]
    prefix = first.get("prefix") if isinstance(first, dict) else None  # pyright: ignore[reportUnknownMemberType]
    if not isinstance(prefix, str) or not prefix.lower().startswith("s3://"):
        raise TransferError(wrong + shape, by_request=True)
    strange = next((name for name in names if not isinstance(name, str) or not name), None)
    if strange is not None:
        raise TransferError(f"{wrong}{shape} Received the entry: {strange!r}", by_request=True)
    return prefix, [str(name) for name in names]


def _add(channel: Channel, found: dict[str, ObjectInfo], name: str, info: ObjectInfo) -> None:
    path = _path(channel, name, info.key)
    if path in found:
        raise TransferError(
            f'Channel "{channel.name}": the objects {found[path].key!r} and {info.key!r} would be the same file.',
            by_request=True,
        )
    found[path] = info


def _path(channel: Channel, name: str, key: str) -> str:
    """Where an object lands below the channel's folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name or not parts or any(len(part.encode()) > 255 for part in parts):
        raise TransferError(
            f'Channel "{channel.name}": the object with key {key!r} cannot be a file below the channel\'s folder.',
            by_request=True,
        )
    return "/".join(parts)


def _refuse_collisions(channel: Channel, found: dict[str, ObjectInfo]) -> None:
    """Refuse what S3 allows and a file system does not: an object named like the folder of others."""
    for path in found:
        at = path.find("/")
        while at != -1:
            if path[:at] in found:
                raise TransferError(
                    f'Channel "{channel.name}": the object {found[path[:at]].key!r} would be a file and, for '
                    f"{found[path].key!r}, a folder.",
                    by_request=True,
                )
            at = path.find("/", at + 1)


def _downloads(folder: Path, files: dict[str, ObjectInfo]) -> Iterable[Download]:
    made: set[Path] = set()
    for name, info in files.items():
        path = folder / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        yield Download(info, path)
