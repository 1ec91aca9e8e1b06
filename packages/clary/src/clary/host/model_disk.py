"""The models of a multi-model endpoint on a replica's disk: fetched by name, unpacked safely, dropped when it is full.

The folder lies outside of what a container may write, so that nothing in there can lead a download astray.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from clary.host.archives import ArchiveRefused, extract
from clary.host.watch import KEPT_FREE_BYTES
from clary.storage.client import ObjectStore, parse_s3_uri
from clary.storage.errors import BucketMissing, ObjectMissing, StoreError, StoreRefused
from clary.storage.transfer import Download, download

if TYPE_CHECKING:
    from clary.storage.client import ObjectInfo

_UNPACKED = 3  # an archive of floating point weights grows little; one of text several times
_LONGEST_NAME = 1024
_MODEL = "model"


class ModelUnavailable(Exception):
    """A model cannot be had. `kind` is the runtime API's error that the sentence belongs to."""

    def __init__(self, message: str, kind: str = "ValidationError") -> None:
        super().__init__(message)
        self.kind = kind


def opaque_name(target: str) -> str:
    """The name under which a container knows the model: what it was called by may hold slashes, or anything else."""
    return hashlib.sha256(target.encode()).hexdigest()[:40]


def relative_key(target: str) -> str:
    """The path below the endpoint's prefix that TargetModel names.

    Raises:
        ModelUnavailable: it could lead out of the prefix, or names nothing.
    """
    path = target.removeprefix("/")
    parts = path.split("/")
    if not path or len(path) > _LONGEST_NAME or not path.isprintable() or {"..", ".", ""} & set(parts):
        raise ModelUnavailable(
            f"TargetModel must be the path of a model archive below the endpoint's ModelDataUrl, for instance "
            f"reviews/english.tar.gz. Received: {target[:200]!r}"
        )
    return path


class ModelDisk:
    """One container's models. Used in one event loop, by one task for each model at a time.

    Arguments:
        prefix: the S3 URI below which the archives lie.
        store: where they lie.
        folder: one folder for each model is made in here, by its opaque name.
    """

    def __init__(self, prefix: str, store: ObjectStore, folder: Path) -> None:
        self._bucket, key = parse_s3_uri(prefix)
        self._prefix = key if not key or key.endswith("/") else key + "/"
        self._store, self._folder = store, folder
        self._etags: dict[str, str] = {}

    def path(self, name: str) -> Path:
        """Where a model lies."""
        return self._folder / name / _MODEL

    async def provide(self, target: str, name: str, droppable: Callable[[], Iterable[str]]) -> bool:
        """Have a model on disk as it is in the store now; whether it was fetched.

        Arguments:
            target: its path below the prefix.
            name: its opaque name.
            droppable: the names of models that are not needed now, the one that was not used for longest first.

        Raises:
            ModelUnavailable: there is none, it is no archive, or it does not fit.
        """
        key = self._prefix + target
        try:
            info = await self._store.head(self._bucket, key)
            if info is None:
                raise self._missing(key)
            if self._etags.get(name) == info.etag:
                return False
            self._make_room(info.size * _UNPACKED, (other for other in droppable() if other != name))
            await self._fetch(info, name)
        except (BucketMissing, ObjectMissing) as error:
            raise self._missing(key) from error
        except StoreError as error:
            refused = isinstance(error, StoreRefused) and 400 <= error.status < 500
            kind = "ValidationError" if refused else "ServiceUnavailable"
            raise ModelUnavailable(f"The model s3://{self._bucket}/{key} could not be read: {error}", kind) from error
        except ArchiveRefused as error:
            raise ModelUnavailable(
                f"Failed to extract model data archive from URL s3://{self._bucket}/{key}: {error} The model must be "
                "a TAR archive compressed by gzip."
            ) from error
        except OSError as error:
            why = "the instance's disk is full" if error.errno == errno.ENOSPC else str(error)
            text = f"The model s3://{self._bucket}/{key} could not be written: {why}."
            raise ModelUnavailable(text, "ServiceUnavailable") from error
        self._etags[name] = info.etag
        return True

    def has(self, name: str) -> bool:
        """Whether a copy is there."""
        return name in self._etags

    def drop(self, name: str) -> None:
        """Remove a copy."""
        self._etags.pop(name, None)
        shutil.rmtree(self._folder / name, ignore_errors=True)

    async def _fetch(self, info: ObjectInfo, name: str) -> None:
        self.drop(name)
        place = self._folder / name
        archive, fresh = place / "model.tar.gz", place / "unpacked"
        place.mkdir()
        try:
            await download(self._store, self._bucket, [Download(info, archive)])
            limit = max(_free(self._folder) - KEPT_FREE_BYTES, 0)
            await asyncio.to_thread(extract, archive, fresh, limit_bytes=limit)
            archive.unlink()
            fresh.rename(self.path(name))
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise

    def _make_room(self, size: int, droppable: Iterable[str]) -> None:
        for name in droppable:
            if _free(self._folder) >= size + 2 * KEPT_FREE_BYTES:
                return
            self.drop(name)

    def _missing(self, key: str) -> ModelUnavailable:
        return ModelUnavailable(
            f"Failed to download model data(bucket: {self._bucket}, key: {key}). Please ensure that there is an object "
            "located at the URL and that the role passed to CreateModel has permissions to download the model."
        )


def _free(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
