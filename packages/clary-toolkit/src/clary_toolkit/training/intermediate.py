"""Intermediate output: files closed below /opt/ml/output/intermediate are uploaded to S3 while the script runs.

The kernel tells of them (inotify, by ctypes), so nothing is polled and no half-written file is looked at.
"""

from __future__ import annotations

import os
import struct

from clary_toolkit.training import log
from clary_toolkit.training.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    import threading
    from collections.abc import Mapping

    from clary_toolkit.training.environment import TrainingEnvironment

_CLOSE_WRITE, _MOVED_TO, _CREATE, _IS_FOLDER = 0x8, 0x80, 0x100, 0x40000000
_HEADER = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows


class Sync:
    """The upload at work. `finish` returns when all that was closed before it has been uploaded."""

    def __init__(self, thread: threading.Thread, wake: int) -> None:
        self._thread = thread
        self._wake = wake

    def finish(self) -> None:
        os.close(self._wake)
        self._thread.join()


def start(environment: TrainingEnvironment, environ: Mapping[str, str]) -> Sync | None:
    """Begin to upload, when the job asks for it (`sagemaker_s3_output`) and no platform does it already.

    A platform that does it has made the folder before the launcher starts.
    """
    folder = environment.paths.output_intermediate
    address = environment.s3_output
    if not address or os.path.exists(folder):
        return None
    if not str(address).startswith(("s3://", "file://")):
        raise ClientError("sagemaker_s3_output must be an s3:// address. Received: {!r}".format(address))
    os.makedirs(folder)
    if str(address).startswith("file://"):
        return None
    import threading

    parts = [str(address).rstrip("/"), environment.job_name or "", "output/intermediate"]
    destination = "/".join(part for part in parts if part)
    wait, wake = os.pipe()
    watcher = _Watcher(folder)
    thread = threading.Thread(target=_follow, args=(watcher, wait, destination, dict(environ)), daemon=True)
    thread.start()
    return Sync(thread, wake)


class _Watcher:
    """An inotify queue over a folder and all below it."""

    def __init__(self, root: str) -> None:
        import ctypes

        self.root = root
        self.libc: ctypes.CDLL = ctypes.CDLL(None, use_errno=True)
        self.queue: int = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.queue < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self.folders: dict[int, str] = {}
        self.add(root)

    def add(self, folder: str) -> list[str]:
        """Watch a folder and those below it; returns the files that were there already."""
        found: list[str] = []
        for where, _, names in os.walk(folder):
            watch: int = self.libc.inotify_add_watch(self.queue, os.fsencode(where), _CLOSE_WRITE | _MOVED_TO | _CREATE)
            if watch >= 0:
                self.folders[watch] = where
            found += [os.path.join(where, name) for name in names]
        return found

    def closed_files(self) -> list[str]:
        """The files closed since the last call, each once, in order."""
        found: dict[str, None] = {}
        while True:
            try:
                events = os.read(self.queue, 65536)
            except BlockingIOError:
                return list(found)
            while events:
                watch, mask, _, length = _HEADER.unpack_from(events)
                name = os.fsdecode(events[_HEADER.size : _HEADER.size + length].rstrip(b"\0"))
                events = events[_HEADER.size + length :]
                path = os.path.join(self.folders.get(watch, self.root), name)
                if mask & _IS_FOLDER:
                    found.update(dict.fromkeys(self.add(path)))
                elif mask & (_CLOSE_WRITE | _MOVED_TO):
                    found[path] = None


def _follow(watcher: _Watcher, wait: int, destination: str, environ: Mapping[str, str]) -> None:
    import select

    finished = False
    while not finished:
        ready, _, _ = select.select([watcher.queue, wait], [], [])
        finished = wait in ready  # and then look a last time
        for path in watcher.closed_files():
            _upload(path, "{}/{}".format(destination, os.path.relpath(path, watcher.root)), environ)
    os.close(watcher.queue)
    os.close(wait)


def _upload(path: str, address: str, environ: Mapping[str, str]) -> None:
    from clary_toolkit.training import s3

    try:
        s3.upload(path, address, environ)
    except FileNotFoundError:
        log.debug("{} was gone before it could be uploaded".format(path))
    except (OSError, ClientError) as error:
        log.error("{} could not be uploaded: {}".format(path, error))
