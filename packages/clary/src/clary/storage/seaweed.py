"""The embedded object store: one SeaweedFS process, started, watched, restarted when it dies, adopted when orphaned.

The process outlives a server that is killed, because the hosts of running jobs read and write it directly; the next
server on the same home finds it by its lock and goes on with it. Two never run on one folder: the process itself holds
the lock, through a file descriptor that it inherits.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson
import psutil

from clary.settings import Settings
from clary.storage import seaweed_config
from clary.storage.access import StoreAccess
from clary.storage.seaweed_config import StoreFailed, StoreFiles

_log = logging.getLogger(__name__)
_READY_SECONDS = _YOUNG_SECONDS = 30.0
_ADOPTION_SECONDS = 10.0  # in which one that is not young must answer
_PORT_TAKEN = re.compile(r"address already in use|port \d+ .* is not available")
_STOP_SECONDS = 5.0
# Of Go's heap, of which about 230 MiB are reserved but never touched: idle, 120 MB are resident. At 256 MiB the
# collector ran at every third request and took eight times the work itself.
_MEMORY_LIMIT = "512MiB"
_LONGEST_PAUSE = 10.0
_LOG_LIMIT = 32 << 20


class Store(Protocol):
    """An object store that the server starts with and stops with."""

    @property
    def access(self) -> StoreAccess: ...

    async def start(self) -> None:
        """Return when the store answers."""
        ...

    async def stop(self) -> None: ...


def open_store(settings: Settings) -> Store:
    """The S3 that the settings name, or the embedded one."""
    return ExternalStore(settings) if settings.s3_endpoint else EmbeddedStore(settings)


def begin(settings: Settings) -> subprocess.Popen[bytes] | None:
    """Start the embedded store's process, unless there is one, for an `EmbeddedStore` that goes on with it later.

    Another process may be the one that does: the store needs half a second, in which the rest can get ready.

    Raises:
        StoreFailed: it cannot be started.
    """
    return None if settings.s3_endpoint else EmbeddedStore(settings).begin()


class ExternalStore:
    """Any S3 by its URL."""

    def __init__(self, settings: Settings) -> None:
        if not (settings.s3_endpoint and settings.s3_access_key and settings.s3_secret_key):
            raise StoreFailed(
                "--s3-endpoint needs keys: set CLARY_S3_ACCESS_KEY and CLARY_S3_SECRET_KEY. "
                f"Received: s3_endpoint={settings.s3_endpoint}"
            )
        self.access = StoreAccess(
            endpoint=settings.s3_endpoint.rstrip("/"),
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key,
            region=settings.region,
        )

    async def start(self) -> None:
        """Nothing to start: an S3 that does not answer shows at its first request."""

    async def stop(self) -> None:
        """Nothing to stop."""


@dataclass(frozen=True)
class _Process:
    """A running store. The start time tells it from another process that was given its number later."""

    pid: int
    started: float

    def alive(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 0.02
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


class EmbeddedStore:
    """SeaweedFS under `<home>/store`. Use from one event loop.

    `access` is valid from `start()` on and stays the same over restarts, unless another program took the port.
    """

    def __init__(self, settings: Settings) -> None:
        self._files = StoreFiles(settings.home / "store")
        self._region = settings.region
        self._access: StoreAccess | None = None
        self._process: _Process | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def access(self) -> StoreAccess:
        if self._access is None:
            raise StoreFailed("The object store was not started yet.")
        return self._access

    @property
    def pid(self) -> int | None:
        """The store's process, for tests and `clary status`."""
        return self._process.pid if self._process else None

    def memory_bytes(self) -> int | None:
        """The resident memory of the store's process, None while none runs."""
        process = self._process.alive() if self._process else None
        return process.memory_info().rss if process else None

    def begin(self) -> subprocess.Popen[bytes] | None:
        """Start the process, unless there is one, and do not wait for it."""
        seaweed_config.prepare(self._files)
        if self._orphan() is None:
            self._spawn()
        return self._child

    async def start(self) -> None:
        """Start the store, or go on with the one that a killed server left, and return when it answers.

        Raises:
            StoreFailed: it did not start; the message ends with the last lines of its log.
        """
        self._keys = await asyncio.to_thread(seaweed_config.prepare, self._files)
        self._process = await asyncio.to_thread(self._orphan)
        if self._process is not None:
            self._access = seaweed_config.access(self._files, self._keys, self._region)
            try:
                young = time.time() - self._process.started < _YOUNG_SECONDS
                await self._until_ready(_READY_SECONDS if young else _ADOPTION_SECONDS)
                _log.info("object store: going on with process %s", self._process.pid)
            except StoreFailed:
                await self._end()
        if self._process is None:
            await self._first_launch()
        self._watcher = asyncio.create_task(self._watch(), name="object store watcher")

    async def stop(self) -> None:
        """End the store; everything acknowledged is on disk."""
        if self._watcher:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        await self._end()

    async def _first_launch(self) -> None:
        """Launch; again, on other ports, where one was taken between its choice and its use."""
        for last in (False, False, True):
            try:
                await self._launch()
                return
            except StoreFailed:
                if last or not _PORT_TAKEN.search(_tail(self._files.log)):
                    raise
                _log.warning("object store: one of its ports was taken; choosing others")
                self._files.ports.unlink(missing_ok=True)

    async def _launch(self) -> None:
        spawning = asyncio.ensure_future(asyncio.to_thread(self._spawn))
        try:
            self._process = await asyncio.shield(spawning)
        except asyncio.CancelledError:  # stopped within a restart: what was started must be known, to be ended
            with contextlib.suppress(StoreFailed):
                self._process = await spawning
            raise
        self._access = seaweed_config.access(self._files, self._keys, self._region)
        try:
            await self._until_ready(_READY_SECONDS)
        except StoreFailed:
            await self._end()
            raise

    async def _watch(self) -> None:
        pause = 0.0
        while True:
            started = time.monotonic()
            assert self._process is not None
            await _gone(self._process)
            _log.warning("object store: process %s ended unasked; restarting it", self._process.pid)
            self._reap()
            lived = time.monotonic() - started
            pause = 0.0 if lived > 60 else min(_LONGEST_PAUSE, max(0.2, pause * 2))
            while True:
                await asyncio.sleep(pause)
                try:
                    await self._launch()
                    break
                except StoreFailed as error:
                    _log.error("object store: %s", error)
                    pause = min(_LONGEST_PAUSE, max(0.5, pause * 2))
            self.restarts += 1

    def _spawn(self) -> _Process:
        """Start the process with the lock in its hands."""
        files = self._files
        lock = os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take(lock, files.folder)
            ports = seaweed_config.choose_ports(files)
            (files.data / "mini.options").unlink(missing_ok=True)  # remembers flags of an earlier version
            if files.log.exists() and files.log.stat().st_size > _LOG_LIMIT:
                files.log.replace(files.log.with_suffix(".log.1"))
            with files.log.open("ab") as log:
                self._child = subprocess.Popen(
                    seaweed_config.command_line(files, ports),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=files.folder,
                    env={"PATH": os.defpath, "HOME": str(files.folder), "GOMEMLIMIT": _MEMORY_LIMIT, "TMPDIR": "/tmp"},
                    pass_fds=(lock,),
                    start_new_session=True,
                    umask=0o077,
                )
        finally:
            os.close(lock)
        process = _Process(self._child.pid, psutil.Process(self._child.pid).create_time())
        seaweed_config.write_private(files.process, orjson.dumps({"pid": process.pid, "started": process.started}))
        return process

    def _orphan(self) -> _Process | None:
        """The store that an earlier server left running on this folder."""
        if not self._files.lock.exists():
            return None
        lock = os.open(self._files.lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
        with contextlib.suppress(OSError, ValueError, KeyError):
            recorded = orjson.loads(self._files.process.read_bytes())
            process = _Process(recorded["pid"], recorded["started"])
            if process.alive():
                return process
        return _find(self._files.data)

    async def _until_ready(self, seconds: float) -> None:
        """Wait until S3 requests are answered: with a refusal, as this one is not signed."""
        deadline = time.monotonic() + seconds
        port = int(self.access.endpoint.rpartition(":")[2])
        while time.monotonic() < deadline:
            if self._process is None or not self._process.alive():
                break
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    reader, writer = await asyncio.open_connection(seaweed_config.LOOPBACK, port)
                    try:
                        writer.write(b"GET / HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\r\n")
                        if (await reader.readline()).startswith(b"HTTP/1.1 403"):
                            return
                    finally:
                        writer.close()
            await asyncio.sleep(0.02)
        raise StoreFailed(
            f"The embedded object store did not start within {seconds:g} s. The end of {self._files.log}:\n"
            + _tail(self._files.log)
        )

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for number, patience in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 10.0)):
            running = process.alive()
            if running is None:
                break
            with contextlib.suppress(psutil.NoSuchProcess):
                running.send_signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await _gone(process)
                break
        self._reap()
        self._files.process.unlink(missing_ok=True)

    def _reap(self) -> None:
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(5)
            self._child = None


def _take(lock: int, folder: Path) -> None:
    """Lock the folder; a process that is just ending may hold it a moment longer."""
    deadline = time.monotonic() + 5
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreFailed(
                    f"Another object store runs on {folder}. End it, or choose another home with CLARY_HOME."
                ) from None
            time.sleep(0.05)


def _find(data: Path) -> _Process | None:
    """A store that was started on this folder but not recorded: its server was killed in between."""
    for process in psutil.process_iter(["cmdline", "create_time"]):
        if f"-dir={data}" in (process.info["cmdline"] or []):
            return _Process(process.pid, process.info["create_time"])
    return None


async def _gone(process: _Process) -> None:
    """Return when the process has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    except OSError:  # a kernel without pidfd
        while process.alive():
            await asyncio.sleep(0.2)
        return
    try:
        if process.alive():
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(descriptor, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


def _tail(path: Path, size: int = 2000) -> str:
    try:
        return path.read_bytes()[-size:].decode(errors="replace")
    except OSError:
        return "(no log)"
