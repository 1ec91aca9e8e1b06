"""A model's files, brought from the store into a container's /opt/ml/model."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from clary.host.archives import ArchiveRefused, extract
from clary.host.transfers import TransferError
from clary.storage.client import ObjectInfo, ObjectStore, parse_s3_uri
from clary.storage.errors import BucketMissing, ObjectMissing, StoreError, StoreRefused
from clary.storage.transfer import Download, download

if TYPE_CHECKING:
    from clary.host.serving_spec import ModelSource
    from clary.storage.access import StoreAccess


def fetch_model(source: ModelSource, access: StoreAccess, folder: Path, *, limit_bytes: int | None = None) -> None:
    """Fill `folder` with a model.

    Arguments:
        source: where the model lies.
        access: to the store.
        folder: what the container sees as /opt/ml/model; exists.
        limit_bytes: how much the files of an archive may hold together.

    Raises:
        TransferError: there is no such model, it is no archive that can be unpacked, or the store stays away.
    """
    archive = folder.parent / "model.tar.gz"
    try:
        asyncio.run(_fetch(source, access, archive if source.compression == "Gzip" else folder))
        if source.compression == "Gzip":
            extract(archive, folder, limit_bytes=limit_bytes)
    except ArchiveRefused as error:
        raise TransferError(
            f"Failed to extract model data archive from URL {source.s3_uri}: {error} The model must be a TAR archive "
            "compressed by gzip.",
            by_request=True,
        ) from error
    except (BucketMissing, ObjectMissing) as error:
        raise _missing(source) from error
    except StoreError as error:
        refused = isinstance(error, StoreRefused) and 400 <= error.status < 500
        raise TransferError(f"The model {source.s3_uri} could not be read: {error}", by_request=refused) from error
    except OSError as error:
        raise TransferError(f"The model {source.s3_uri} could not be written: {error}", by_request=True) from error
    finally:
        archive.unlink(missing_ok=True)


async def _fetch(source: ModelSource, access: StoreAccess, target: Path) -> None:
    store = ObjectStore(access)
    try:
        bucket, key = parse_s3_uri(source.s3_uri)
        if source.kind == "S3Prefix":
            wanted = await _files_below(store, bucket, key, target)
        else:
            info = await store.head(bucket, key)
            path = target if source.compression == "Gzip" else target / PurePosixPath(key).name
            wanted = [] if info is None else [Download(info, path)]
        if not wanted:
            raise _missing(source)
        for item in wanted:
            item.path.parent.mkdir(parents=True, exist_ok=True)
        await download(store, bucket, wanted)
    finally:
        await store.close()


async def _files_below(store: ObjectStore, bucket: str, prefix: str, folder: Path) -> list[Download]:
    found: list[Download] = []
    async for info in store.list_objects(bucket, prefix):
        if not info.key.endswith("/"):
            found.append(Download(info, folder / _relative(info, prefix)))
    return found


def _relative(info: ObjectInfo, prefix: str) -> PurePosixPath:
    """The path below the prefix, which names a folder whether it ends in a slash or not."""
    path = PurePosixPath(info.key[len(prefix) :].lstrip("/") or PurePosixPath(info.key).name)
    if ".." in path.parts or "\0" in info.key:
        raise TransferError(f"The object with key {info.key!r} cannot be a file of a model.", by_request=True)
    return path


def _missing(source: ModelSource) -> TransferError:
    what = "object" if source.kind == "S3Object" else "objects below the prefix"
    return TransferError(
        f"Could not find model data at {source.s3_uri}. Please ensure that there is an {what} there and that the "
        "role has access to it.",
        by_request=True,
    )
