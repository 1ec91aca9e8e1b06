"""A host's results on their way to the store: /opt/ml/model and /opt/ml/output/data, as SageMaker uploads them.

Archives are made and compressed while they are uploaded: nothing is copied on disk first. No link is followed, since
what lies in these folders was made by the job's code and is read by a process that may see more than that code might.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isal import igzip

from clary.storage.client import parse_s3_uri
from clary.storage.errors import StoreError
from clary.storage.transfer import Download, download, upload_file, upload_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from clary.host.spec import HostSpec
    from clary.storage.client import ObjectStore

_CHUNK = 1 << 20
_CHUNKS_AHEAD = 8
_COMPRESSION_LEVEL = 1  # igzip's levels are 0 to 3; weights hardly compress, and this one keeps up with the store
_UPLOADS_AT_ONCE = 8
_PARTS = ("model", "output")


async def upload_results(
    spec: HostSpec, store: ObjectStore, model: Path, output: Path, *, with_model: bool
) -> str | None:
    """Upload the results of a job with one host.

    Args:
        spec: the host's order.
        store: where they go.
        model: what the job saw as /opt/ml/model.
        output: what it saw as /opt/ml/output/data.
        with_model: whether the job went so that its model counts.

    Returns:
        The model's address, None when it was not uploaded.

    Raises:
        OSError: a file cannot be read.
        StoreError: the store refuses, or stayed away.
    """
    await _upload_output(spec, store, lambda tar: _add_tree(tar, output, set()), bool(_children(output)))
    if not with_model:
        return None
    if spec.output.compression == "NONE":
        return await _upload_files(store, model, spec.output.model_uri)
    return await _upload_archive(store, spec.output.model_uri, lambda tar: _add_tree(tar, model, set()))


async def stage_results(spec: HostSpec, store: ObjectStore, model: Path, output: Path) -> None:
    """Put the results of one host of several where algo-1 finds them; an uncompressed model goes to its place."""
    if spec.output.compression == "NONE":
        await _upload_files(store, model, spec.output.model_uri)
    else:
        await _upload_archive(store, _staged(spec, spec.host, "model"), lambda tar: _add_tree(tar, model, set()))
    await _upload_archive(store, _staged(spec, spec.host, "output"), lambda tar: _add_tree(tar, output, set()))


async def merge_results(spec: HostSpec, store: ObjectStore, model: Path, output: Path, scratch: Path) -> str | None:
    """Make one model and one output of this host's and all staged ones, then remove what was staged.

    Where hosts have a file of the same path, the one of the lowest host counts.

    Args:
        spec: of algo-1.
        store: where the parts are and the results go.
        model: this host's model folder.
        output: this host's output folder.
        scratch: a folder on disk with room for the staged archives.

    Returns:
        The model's address.
    """
    others = [peer.name for peer in spec.peers if peer.name != spec.host]
    staged = {part: await _fetch_staged(spec, store, others, part, scratch) for part in _PARTS}
    outputs = staged["output"]
    has_output = bool(_children(output)) or any(_has_members(path) for path in outputs)
    await _upload_output(spec, store, lambda tar: _add_all(tar, output, outputs), has_output)
    if spec.output.compression == "NONE":
        artifact = await _upload_files(store, model, spec.output.model_uri)
    else:
        models = staged["model"]
        artifact = await _upload_archive(store, spec.output.model_uri, lambda tar: _add_all(tar, model, models))
    for host in others:
        for part in _PARTS:
            await store.delete(*parse_s3_uri(_staged(spec, host, part)))
    for path in [*staged["model"], *outputs]:
        path.unlink()
    return artifact


async def _upload_output(
    spec: HostSpec, store: ObjectStore, fill: Callable[[tarfile.TarFile], None], has_files: bool
) -> None:
    if spec.output.output_uri and has_files:
        await _upload_archive(store, spec.output.output_uri, fill)


def _staged(spec: HostSpec, host: str, part: str) -> str:
    return f"{spec.output.staging_uri.rstrip('/')}/{host}/{part}.tar.gz"


async def _fetch_staged(spec: HostSpec, store: ObjectStore, hosts: list[str], part: str, scratch: Path) -> list[Path]:
    """The staged archives as files, in the order of the hosts."""
    paths: list[Path] = []
    scratch.mkdir(parents=True, exist_ok=True)
    for host in hosts:
        bucket, key = parse_s3_uri(_staged(spec, host, part))
        info = await store.head(bucket, key)
        if info is None:
            continue  # an uncompressed model is already in its place
        path = scratch / f"{host}-{part}.tar.gz"
        await download(store, bucket, [Download(info, path)])
        paths.append(path)
    return paths


async def _upload_archive(store: ObjectStore, uri: str, fill: Callable[[tarfile.TarFile], None]) -> str:
    """Write a .tar.gz whose members `fill` adds, and return its address."""
    bucket, key = parse_s3_uri(uri)
    await upload_stream(store, bucket, key, _archive_chunks(fill))
    return uri


async def _archive_chunks(fill: Callable[[tarfile.TarFile], None]) -> AsyncIterator[bytes]:
    """The bytes of a .tar.gz, made on a thread that is at most a few chunks ahead of who reads them."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_CHUNKS_AHEAD)
    sink = _Sink(lambda chunk: asyncio.run_coroutine_threadsafe(queue.put(chunk), loop).result())

    def make() -> None:
        with (
            igzip.IGzipFile(fileobj=sink, mode="wb", compresslevel=_COMPRESSION_LEVEL, mtime=0) as compressed,
            tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK) as tar,
        ):
            fill(tar)
        sink.flush_all()

    making = asyncio.create_task(asyncio.to_thread(make))
    making.add_done_callback(lambda _: asyncio.ensure_future(queue.put(None)))
    try:
        while (chunk := await queue.get()) is not None:
            yield chunk
        await making
    finally:
        sink.closed_by_reader = True
        while not making.done():  # a full queue must not hold the thread for ever
            await asyncio.wait({asyncio.ensure_future(queue.get()), making}, return_when=asyncio.FIRST_COMPLETED)


class _Sink:
    """A file object that hands on what is written, in chunks."""

    def __init__(self, deliver: Callable[[bytes], None]) -> None:
        self._deliver = deliver
        self._pending: list[bytes] = []
        self._size = 0
        self.closed_by_reader = False

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pending.append(piece)
        self._size += len(piece)
        if self._size >= _CHUNK:
            self.flush_all()
        return len(piece)

    def flush(self) -> None:
        """Nothing: chunks go on when they are large enough."""

    def flush_all(self) -> None:
        if self.closed_by_reader:
            raise BrokenPipeError("nobody reads the archive any more")
        if self._pending:
            self._deliver(b"".join(self._pending))
        self._pending, self._size = [], 0


def _add_all(tar: tarfile.TarFile, folder: Path, archives: list[Path]) -> None:
    """A folder's tree, then what archives have beside it."""
    seen: set[str] = set()
    _add_tree(tar, folder, seen)
    for path in archives:
        with igzip.open(path, "rb") as compressed, tarfile.open(fileobj=compressed, mode="r|") as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
            for member in archive:
                if member.name in seen:
                    continue
                seen.add(member.name)
                tar.addfile(member, archive.extractfile(member) if member.isreg() else None)


def _add_tree(tar: tarfile.TarFile, folder: Path, seen: set[str]) -> None:
    """Everything below a folder, by names relative to it; sockets, pipes and devices are left out."""
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        member = tar.gettarinfo(path, arcname=name)
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        if member.islnk():  # a second name of a file: its content again, as nobody knows which of them will be kept
            member.type, member.linkname, member.size = tarfile.REGTYPE, "", path.lstat().st_size
        seen.add(name)
        if not member.isreg():
            tar.addfile(member)
            continue
        with _open(path) as content:
            tar.addfile(member, content)


async def _upload_files(store: ObjectStore, folder: Path, prefix: str) -> str:
    """Every regular file below a folder as an object of its own; returns the prefix."""
    bucket, base = parse_s3_uri(prefix)
    base = base.rstrip("/") + "/" if base else ""
    gate = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    async def upload(path: Path) -> None:
        async with gate:
            await upload_file(store, bucket, base + path.relative_to(folder).as_posix(), path)

    try:
        async with asyncio.TaskGroup() as group:
            for path in _walk(folder):
                if stat.S_ISREG(path.lstat().st_mode):
                    group.create_task(upload(path))
    except* (OSError, StoreError) as errors:
        raise errors.exceptions[0] from None
    return prefix


def _walk(folder: Path) -> Iterator[Path]:
    """Folders, regular files and links below a folder, in order of their names; links are not followed."""
    for path in _children(folder):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield path
            yield from _walk(path)
        elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            yield path


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _open(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")


def _has_members(archive: Path) -> bool:
    with igzip.open(archive, "rb") as compressed, tarfile.open(fileobj=compressed, mode="r|") as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        return tar.next() is not None
