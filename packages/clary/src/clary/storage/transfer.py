"""Many and large objects between the store and files: parallel ranged reads, parallel multipart writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from clary.storage.client import ObjectInfo, ObjectStore, StoreError, StoreRefused, crc32

PART = 16 << 20
_MOST_PARTS = 10_000
_RANGE = 8 << 20
_READERS = 64
_RANGE_READERS = 12  # of those: each holds a range in memory
_BATCH_FILES = 8
_BATCH_BYTES = 1 << 20
_WRITERS = 4

Progress = Callable[[int, int], None]
"""Called with the bytes and the objects that were finished since the last call."""


@dataclass(frozen=True)
class Download:
    """One object and the file that it becomes; the file's folder exists."""

    info: ObjectInfo
    path: Path


async def download(
    store: ObjectStore, bucket: str, wanted: Iterable[Download], progress: Progress | None = None
) -> None:
    """Write each object to its file: small ones many at a time, large ones in parallel ranges of one version.

    Raises:
        OSError: a file cannot be written; ENOSPC when the disk is full.
        StoreError: an object is missing or was replaced meanwhile.
    """
    files: list[_SharedFile] = []
    pieces = _pieces(wanted, files)

    ranges = asyncio.Semaphore(_RANGE_READERS)

    async def reader() -> None:
        batch: list[tuple[Path, list[bytes]]] = []
        held = 0

        async def write_batch() -> None:
            nonlocal held
            # Making a file takes the disk as long as the network its content: on a thread, several at once.
            await asyncio.to_thread(_write_small, batch)
            if progress:
                progress(held, len(batch))
            batch.clear()
            held = 0

        for piece in pieces:
            info = piece.item.info
            if piece.file is None:
                batch.append((piece.item.path, await store.read_chunks(bucket, info.key, 0, info.size, info.etag)))
                held += info.size
                if len(batch) == _BATCH_FILES or held > _BATCH_BYTES:
                    await write_batch()
                continue
            async with ranges:
                chunks = await store.read_chunks(bucket, info.key, piece.first, piece.size, info.etag)
                done = await piece.file.write(piece.first, chunks)
            if progress:
                progress(piece.size, done)
        if batch:
            await write_batch()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_READERS):
                group.create_task(reader())
    except* (OSError, StoreError) as errors:
        raise _first(errors) from None
    finally:
        for file in files:
            file.close()


async def upload_file(store: ObjectStore, bucket: str, key: str, path: Path, progress: Progress | None = None) -> int:
    """Write a file to the store and return its size in bytes."""

    async def parts() -> AsyncIterable[bytes]:
        with path.open("rb", buffering=0) as file:
            size = max(PART, -(-os.fstat(file.fileno()).st_size // _MOST_PARTS))
            while chunk := await asyncio.to_thread(_read_fully, file.fileno(), size):
                yield chunk
                if progress:
                    progress(len(chunk), 0)

    size = await _upload(store, bucket, key, parts())
    if progress:
        progress(0, 1)
    return size


async def upload_stream(store: ObjectStore, bucket: str, key: str, chunks: AsyncIterable[bytes]) -> int:
    """Write a stream of unknown length as one object, which appears only when the stream has ended well."""
    return await _upload(store, bucket, key, _gathered(chunks))


async def _gathered(chunks: AsyncIterable[bytes]) -> AsyncIterable[bytes]:
    """The same bytes in pieces of a part's size, growing so that any length fits into 10,000 of them."""
    pending: list[bytes] = []
    size = count = 0
    async for chunk in chunks:
        pending.append(chunk)
        size += len(chunk)
        if size >= PART << (count // 2000):
            yield b"".join(pending)
            pending, size, count = [], 0, count + 1
    if pending:
        yield b"".join(pending)


async def _upload(store: ObjectStore, bucket: str, key: str, parts: AsyncIterable[bytes]) -> int:
    pieces = aiter(parts)
    first = await anext(pieces, b"")
    second = await anext(pieces, b"") if first else b""
    if not second:
        await store.write(bucket, key, first)
        return len(first)
    _, answer = await store.call("POST", bucket, key, {"uploads": None}, {"x-amz-checksum-algorithm": "CRC32"})
    upload = next(node.text or "" for node in ElementTree.fromstring(answer) if node.tag.endswith("UploadId"))
    try:
        return await _write_parts(store, bucket, key, upload, (first, second), pieces)
    except BaseException:
        with suppress(StoreError):
            await asyncio.shield(store.call("DELETE", bucket, key, {"uploadId": upload}))
        raise


async def _write_parts(
    store: ObjectStore, bucket: str, key: str, upload: str, begun: tuple[bytes, ...], rest: AsyncIterable[bytes]
) -> int:
    written: dict[int, tuple[str, str]] = {}
    slots = asyncio.Semaphore(_WRITERS)
    size = 0

    async def write(number: int, content: bytes) -> None:
        try:
            query: dict[str, str | None] = {"partNumber": str(number), "uploadId": upload}
            checksum = crc32(content)
            response, _ = await store.call("PUT", bucket, key, query, {"x-amz-checksum-crc32": checksum}, content)
            written[number] = (response.header(b"etag") or "", checksum)
        finally:
            slots.release()

    try:
        async with asyncio.TaskGroup() as group:
            number = 0
            for content in begun:
                await slots.acquire()
                number, size = number + 1, size + len(content)
                group.create_task(write(number, content))
            async for content in rest:
                await slots.acquire()
                number, size = number + 1, size + len(content)
                group.create_task(write(number, content))
    except* (OSError, StoreError) as errors:
        raise _first(errors) from None
    body = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag>"
        f"<ChecksumCRC32>{checksum}</ChecksumCRC32></Part>"
        for number, (etag, checksum) in sorted(written.items())
    )
    document = f"<CompleteMultipartUpload>{body}</CompleteMultipartUpload>".encode()
    try:
        await store.call("POST", bucket, key, {"uploadId": upload}, body=document)
    except StoreRefused as error:
        # A repeated request finds no upload when the first one was carried out but its answer lost.
        found = await store.head(bucket, key) if error.code == "NoSuchUpload" else None
        if found is None or found.size != size:
            raise
    return size


class _SharedFile:
    """A large file, written in ranges by several readers and closed by the last."""

    def __init__(self, path: Path, ranges: int, size: int) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.posix_fallocate(self._descriptor, 0, size)  # a full disk shows now, not after minutes
        except BaseException:
            self.close()
            raise
        self._left = ranges

    async def write(self, first: int, chunks: list[bytes]) -> int:
        """Write one range; 1 when it was the last of the file, else 0."""
        await asyncio.to_thread(self._write, first, chunks)
        self._left -= 1
        if self._left:
            return 0
        self.close()
        return 1

    def _write(self, first: int, chunks: list[bytes]) -> None:
        for start in range(0, len(chunks), 512):
            batch = chunks[start : start + 512]
            total, sent = sum(map(len, batch)), os.pwritev(self._descriptor, batch, first)
            while sent < total:
                sent += os.pwrite(self._descriptor, b"".join(batch)[sent:], first + sent)
            first += total

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True)
class _Piece:
    """A whole small object (`file` None), or a range of a large one."""

    item: Download
    first: int
    size: int
    file: _SharedFile | None = None


def _pieces(wanted: Iterable[Download], files: list[_SharedFile]) -> Iterator[_Piece]:
    """What there is to read; large files are made as their turn comes and added to `files`."""
    for item in wanted:
        size = item.info.size
        if size <= _RANGE:
            yield _Piece(item, 0, size)
            continue
        starts = range(0, size, _RANGE)
        file = _SharedFile(item.path, len(starts), size)
        files.append(file)
        for first in starts:
            yield _Piece(item, first, min(_RANGE, size - first), file)


def _write_small(files: list[tuple[Path, list[bytes]]]) -> None:
    for path, chunks in files:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            content = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            sent = os.write(descriptor, content) if content else 0
            while sent < len(content):
                sent += os.write(descriptor, content[sent:])
        finally:
            os.close(descriptor)


def _read_fully(descriptor: int, size: int) -> bytes:
    pieces: list[bytes] = []
    while size and (piece := os.read(descriptor, size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _first(errors: ExceptionGroup[OSError | StoreError]) -> Exception:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)
    return found
