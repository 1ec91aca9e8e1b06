"""Locks among processes around one image: who builds it, and who uses it.

Both are flocks, so the kernel lets go of them when a process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.1
_in_use: dict[Path, int] = {}  # the image's use file → the descriptor by which this process holds it


@contextmanager
def building(images_home: Path, folder: str, progress: Callable[[str], None]) -> Generator[BuildLock]:
    """Holds the right to build or remove an image. Whoever waits is shown what the holder reports."""
    locks = images_home / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(locks / f"{folder}.build", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock = BuildLock(descriptor, locks / f"{folder}.progress")
        waiting_for = ""
        while not _try_lock(descriptor, fcntl.LOCK_EX):
            message = lock.reported() or "Another process is preparing this image"
            if message != waiting_for:
                waiting_for = message
                progress(message)
            time.sleep(_POLL_SECONDS)
        yield lock
    finally:
        os.close(descriptor)


class BuildLock:
    """A held build lock. `descriptor` is passed to the programs of the build: should this process be killed, the lock
    stands until they have ended too, and nobody builds beside them."""

    def __init__(self, descriptor: int, board: Path) -> None:
        self.descriptor = descriptor
        self._board = board

    def report(self, message: str) -> None:
        """Shows `message` to those who wait."""
        self._board.write_text(message)

    def reported(self) -> str:
        """What the holder reported last."""
        try:
            return self._board.read_text()
        except FileNotFoundError:
            return ""

    def clear(self) -> None:
        """Takes the last report down."""
        self._board.unlink(missing_ok=True)


def use(images_home: Path, folder: str) -> None:
    """Marks an image as in use until this process ends or `release`s it, and as last used now."""
    path = _use_file(images_home, folder)
    descriptor = _in_use.get(path)
    if descriptor is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _in_use[path] = descriptor
    os.utime(descriptor)


def release(images_home: Path, folder: str) -> None:
    """Lets go of an image that this process used."""
    descriptor = _in_use.pop(_use_file(images_home, folder), None)
    if descriptor is not None:
        os.close(descriptor)


@contextmanager
def unused(images_home: Path, folder: str) -> Generator[bool]:
    """Whether nobody uses the image; if so, nobody starts to while this is held."""
    path = _use_file(images_home, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Whoever asks this very question elsewhere holds the lock for a moment.
        yield any(_try_lock(descriptor, fcntl.LOCK_EX) or time.sleep(0.01) for _ in range(5))
    finally:
        os.close(descriptor)


def last_used(images_home: Path, folder: str) -> float | None:
    """When the image was last asked for, in seconds since the epoch; None if never."""
    try:
        return _use_file(images_home, folder).stat().st_mtime
    except FileNotFoundError:
        return None


def _use_file(images_home: Path, folder: str) -> Path:
    return images_home / ".locks" / f"{folder}.use"


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
