"""Folders that go to the store while the job runs: checkpoints and TensorBoard's logs.

What SageMaker promises (developer guide, "Use Checkpoints"): files go up as they are written, a file deleted locally is
deleted in S3, what others put there is not fetched. Beside each file stands an empty `.sagemaker-uploading`, then
`.sagemaker-uploaded`, by which AWS's own libraries know what may be removed; `.sagemaker-ignore` keeps a file here.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from clary.storage.client import ObjectStore, parse_s3_uri
from clary.storage.errors import StoreError
from clary.storage.transfer import Download, download, upload_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clary.storage.access import StoreAccess

PERIOD_SECONDS = 5.0
_UPLOADING, _UPLOADED, _IGNORE = ".sagemaker-uploading", ".sagemaker-uploaded", ".sagemaker-ignore"
_State = tuple[int, int]  # modification time in nanoseconds, size


class FolderSync:
    """Keeps a prefix of the store like a folder, until told to finish. One thread of its own does the work.

    Args:
        access: the store.
        folder: what is sent; only regular files count, links are not followed.
        uri: the prefix that receives it.
        report: told, once a cause, why something could not be sent yet.
    """

    def __init__(self, access: StoreAccess, folder: Path, uri: str, report: Callable[[str], None]) -> None:
        self._access, self._folder, self._report = access, folder, report
        self._bucket, prefix = parse_s3_uri(uri)
        self._prefix = prefix.rstrip("/") + "/" if prefix else ""
        self._sent: dict[str, _State] = {}
        self._seen: dict[str, _State] = {}
        self._told: set[str] = set()
        self._finishing = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), name="sync", daemon=True)

    def start(self) -> None:
        """Begin. What already lies in the folder came from the store and is not sent again."""
        self._sent = self._files()
        self._thread.start()

    def finish(self) -> None:
        """Send what is left, and end.

        Raises:
            OSError: a file cannot be read.
            StoreError: the store refuses, or stayed away.
        """
        if not self._thread.is_alive() and not self._finishing.is_set():
            return
        self._finishing.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    async def _work(self) -> None:
        store = ObjectStore(self._access)
        try:
            while not await asyncio.to_thread(self._finishing.wait, PERIOD_SECONDS):
                try:
                    await self._pass(store, self._settled())
                except (OSError, StoreError) as error:
                    self._tell(str(error))
            await self._pass(store, self._files())
        except (OSError, StoreError) as error:
            self._failure = error
        finally:
            await store.close()

    async def _pass(self, store: ObjectStore, files: dict[str, _State]) -> None:
        for name, state in files.items():
            if self._sent.get(name) == state:
                continue
            path = self._folder / name
            uploading, uploaded = (path.with_name(path.name + suffix) for suffix in (_UPLOADING, _UPLOADED))
            try:
                uploaded.unlink(missing_ok=True)
                uploading.touch()
                await upload_file(store, self._bucket, self._prefix + name, path)
                uploading.replace(uploaded)
            except FileNotFoundError:  # the job removed it meanwhile
                uploading.unlink(missing_ok=True)
                continue
            self._sent[name] = state
        for name in [name for name in self._sent if not (self._folder / name).exists()]:
            await store.delete(self._bucket, self._prefix + name)
            (self._folder / (name + _UPLOADED)).unlink(missing_ok=True)
            del self._sent[name]

    def _settled(self) -> dict[str, _State]:
        """The files that have not changed since the last look: nobody is writing them."""
        before, self._seen = self._seen, self._files()
        return {name: state for name, state in self._seen.items() if before.get(name) == state}

    def _files(self) -> dict[str, _State]:
        found: dict[str, _State] = {}
        for path in _regular_files(self._folder):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            found[path.relative_to(self._folder).as_posix()] = (status.st_mtime_ns, status.st_size)
        return found

    def _tell(self, problem: str) -> None:
        if problem not in self._told:
            self._told.add(problem)
            self._report(f"s3://{self._bucket}/{self._prefix} is not up to date: {problem}")


async def restore(store: ObjectStore, uri: str, folder: Path) -> None:
    """Fill a folder with what an earlier job or attempt left under a prefix.

    Raises:
        OSError: a file cannot be written.
        StoreError: the store refuses, or stayed away.
        ValueError: a key cannot be a file below the folder.
    """
    bucket, prefix = parse_s3_uri(uri)
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    wanted: list[Download] = []
    async for info in store.list_objects(bucket, prefix):
        name = info.key[len(prefix) :]
        if not name or name.endswith("/"):
            continue
        if ".." in name.split("/") or name.startswith("/"):
            raise ValueError(f"The checkpoint s3://{bucket}/{info.key} cannot be a file below the checkpoint folder.")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        wanted.append(Download(info, path))
    await download(store, bucket, wanted)


def _regular_files(folder: Path) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    names = {entry.name for entry in entries}
    for entry in entries:
        if entry.is_symlink():
            continue
        if entry.is_dir():
            yield from _regular_files(entry)
        elif entry.is_file() and not _stays(entry.name, names):
            yield entry


def _stays(name: str, siblings: set[str]) -> bool:
    return name.endswith((_UPLOADING, _UPLOADED, _IGNORE)) or name + _IGNORE in siblings
