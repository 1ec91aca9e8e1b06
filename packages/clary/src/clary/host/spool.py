"""The durable queue between a host and the server: what a job says is on disk within a second.

A spool is a file of JSON objects, one a line, each with its `sequence`. Lines are appended by one process and read
back from the file for reports, so a server that is down for hours costs no memory.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SYNC_INTERVAL_SECONDS = 0.5
KEPT_BYTES = 32 * 1024 * 1024  # of what the server has, should its record be set back
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_RESERVE_BYTES = 4 * 1024 * 1024


class Spool:
    """Appends records and hands them out in batches. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self._count = 0
        self._size = 0
        self._unwritten = b""
        # Acknowledged up to here: the sequence and the byte at which the first unacknowledged record begins.
        self._sent = 0
        self._sent_offset = 0
        # Before `_kept` the file's disk space was given back; `_mark` is up to where it will be the next time.
        self._kept = self._mark = (0, 0)

    @property
    def count(self) -> int:
        """How many records were appended: the next record's sequence."""
        return self._count

    @property
    def acknowledged(self) -> int:
        """How many records the server is known to have."""
        return self._sent

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records; each gets its `sequence` here."""
        with self._lock:
            parts: list[bytes] = []
            for record in records:
                parts.append(json.dumps({"sequence": self._count, **record}).encode())
                self._count += 1
            self._unwritten += b"\n".join(parts) + b"\n" if parts else b""
            self._write()

    def batch(self, max_bytes: int = 512 * 1024) -> tuple[list[bytes], int]:
        """The next unacknowledged records as JSON texts, about `max_bytes` of them, and the first one's sequence."""
        with self._lock:
            size = max_bytes
            while True:
                data = os.pread(self._file, min(size, self._size - self._sent_offset), self._sent_offset)
                end = data.rfind(b"\n")
                if end >= 0:
                    return data[:end].split(b"\n"), self._sent
                if self._sent_offset + len(data) >= self._size:
                    return [], self._sent
                size *= 2

    def acknowledge(self, sequence: int) -> None:
        """Note that the server has every record below `sequence`; a lower number than before rewinds."""
        with self._lock:
            if sequence == self._sent:
                return
            if sequence < self._sent:
                self._sent, self._sent_offset = self._kept
            with self._path.open("rb") as file:
                file.seek(self._sent_offset)
                while self._sent < min(sequence, self._count):
                    line = file.readline()
                    if not line.endswith(b"\n"):
                        break
                    self._sent += 1
                    self._sent_offset += len(line)
            self._give_back()

    def _give_back(self) -> None:
        """Free the disk under records that the server has had for long: an endpoint may log for months."""
        if self._sent_offset - self._mark[1] >= KEPT_BYTES:
            _punch(self._file, self._kept[1], self._mark[1])
            self._kept, self._mark = self._mark, (self._sent, self._sent_offset)

    def sync(self) -> None:
        """Make what was appended survive a power cut."""
        with self._lock:
            self._write()
        os.fdatasync(self._file)

    def reserve(self) -> None:
        """Set some disk aside, so that the last words of a job that filled the disk can still be written."""
        with self._reserve_file().open("wb") as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)

    def _reserve_file(self) -> Path:
        return self._path.with_suffix(".reserve")

    def _write(self) -> None:
        while self._unwritten:
            try:
                written = os.write(self._file, self._unwritten)
            except OSError:
                if not self._reserve_file().exists():
                    return  # the disk is full: kept in memory, and tried again with the next record
                self._reserve_file().unlink(missing_ok=True)
                continue
            self._size += written
            self._unwritten = self._unwritten[written:]


class Syncer:
    """Syncs spools within `SYNC_INTERVAL_SECONDS` of being told that they grew; does nothing while nothing happens."""

    def __init__(self, *spools: Spool) -> None:
        self._spools = spools
        self._dirty = threading.Event()
        threading.Thread(target=self._run, name="spool-sync", daemon=True).start()

    def notice(self) -> None:
        """Say that a spool grew."""
        self._dirty.set()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._dirty.wait()
            pause.wait(SYNC_INTERVAL_SECONDS)
            self._dirty.clear()
            for spool in self._spools:
                with suppress(OSError):
                    spool.sync()


def read_records(path: Path) -> list[dict[str, Any]]:
    """All complete records of a spool that another process wrote; empty when there is none."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = os.lseek(file.fileno(), 0, os.SEEK_DATA) if path.stat().st_size else 0
        file.seek(start)
        lines = file.read().split(b"\n")[:-1]
    return [json.loads(line) for line in (line.lstrip(b"\0") for line in lines) if line]


def _punch(file: int, start: int, end: int) -> None:
    """Give the disk space of a range back, where the file system can; what is read there is zeros from then on."""
    with suppress(AttributeError):  # a C library without it
        fallocate = ctypes.CDLL(None).fallocate64
        fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        if end > start:
            fallocate(file, _PUNCH_HOLE | _KEEP_SIZE, start, end - start)
