"""The parent: it holds the home folder's lock and the public port, and watches the processes that do the work.

The listening socket stays open here, so that a front that is killed is followed by one that answers the connections
that came meanwhile: nobody is refused. The parent has imported what the others need before it forks them, which makes
starting one again a matter of a few hundredths of a second.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import gc
import importlib
import logging
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from clary.server import child
from clary.server.child import Child, Lifeline, Work
from clary.settings import Settings, current_settings

BACKLOG = 2048
_SETTLED_SECONDS = 10.0  # a process that has lived for so long is started again at once
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_STOP_SECONDS: Mapping[str, float] = {"front": 15.0, "api": 30.0}  # from SIGTERM to SIGKILL
_OPEN_FILES = 65_536  # two for each request under way, and those of clients that keep their connections
_LOCK_SECONDS = 5.0  # the processes of a parent that was killed are gone well before

_log = logging.getLogger("clary.server")


class StartError(Exception):
    """The server cannot start, and why."""


def main() -> None:
    """Run the server of this process's settings until SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_while_starting)
    settings = current_settings()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    _configure_log(settings.home / "server.log")
    _allow_open_files()
    try:
        code = run(settings)
    except StartError as error:
        sys.exit(f"clary: {error}")
    sys.exit(code)


def run(settings: Settings) -> int:
    """Start the processes and keep them running; returns the exit code.

    `server.json` in the home folder says where the server is, from when it is ready until it ends.

    Raises:
        StartError: another server uses the home folder or the port, or the record cannot be used.
    """
    with _only_server_of(settings.home), _listening(settings) as listener, _store_begun(settings):
        front, api = (importlib.import_module(f"clary.server.{name}") for name in ("front", "api"))
        api.prepare(settings)
        gc.collect()
        gc.freeze()  # what is there now is shared with the children for good

        def serve_api(ready: Callable[[], None]) -> None:
            listener.close()
            api.main(settings, ready)

        def serve_front(ready: Callable[[], None]) -> None:
            front.main(settings, listener, ready)

        return _Family(settings, listener, {"api": serve_api, "front": serve_front}).run()


def _end_while_starting(_number: int, _frame: object) -> None:
    """Until there are processes to end first: leave nothing behind, such as the store's process."""
    sys.exit(0)


def _allow_open_files() -> None:
    """Raise the limit of open files, which systems set low for old programs' sake, for all processes of the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS names no limit and has one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclass
class _Role:
    """What one process is for, the process that does it now, and when it may be started again."""

    work: Work
    process: Child | None = None
    pause: float = 0.0
    start_at: float | None = 0.0


@dataclass
class _Family:
    settings: Settings
    listener: socket.socket
    works: Mapping[str, Work]
    started: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    code: int = 0
    ending: bool = False
    announced: bool = False

    def run(self) -> int:
        """Start the processes in their order and keep them running until told to end; then end them in reverse."""
        self._lifeline = Lifeline()
        self._roles = {name: _Role(work) for name, work in self.works.items()}
        with _woken_by_signals(self._end) as wake, selectors.DefaultSelector() as self._selector:
            self._selector.register(wake, selectors.EVENT_READ)
            try:
                while not self.ending:
                    self._start_what_is_due()
                    self._wait(wake)
            finally:
                self._stop(wake)
                (self.settings.home / "server.json").unlink(missing_ok=True)
        return self.code

    def _end(self) -> None:
        self.ending = True

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        for name, role in self._roles.items():
            if role.start_at is not None and role.start_at <= now:
                role.start_at = None
                role.process = child.start(name, role.work, self._lifeline)
                self._selector.register(role.process.news, selectors.EVENT_READ, role.process)
                if self.announced:
                    self._announce()

    def _wait(self, wake: socket.socket, most: float | None = None) -> None:
        """Wait for a signal, for news of a process, or until one is to be started; take in what happened."""
        due = [role.start_at - time.monotonic() for role in self._roles.values() if role.start_at is not None]
        patience = [seconds for seconds in (*due, most) if seconds is not None]
        for key, _ in self._selector.select(max(min(patience), 0) if patience else None):
            if key.fileobj is wake:
                wake.recv(4096)
            else:
                process: Child = key.data
                process.read_news()
                self._selector.unregister(process.news)
                os.close(process.news)
        self._reap()
        processes = [role.process for role in self._roles.values()]
        if not self.announced and all(process and process.ready for process in processes):
            self.announced = True
            self._announce()
            _log.info("Clary is ready at %s", self.settings.url)

    def _reap(self) -> None:
        """Take note of the processes that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for name, role in self._roles.items():
                if role.process is not None and role.process.pid == pid:
                    self._ended(name, role, role.process, os.waitstatus_to_exitcode(status))

    def _ended(self, name: str, role: _Role, process: Child, code: int) -> None:
        role.process = None
        if self.ending:
            return
        if not self.announced:
            self.code, self.ending = code if code > 0 else 1, True
            _log.error("the %s process ended with %s before it was ready", name, _ending(code))
            return
        lived = time.monotonic() - process.started
        role.pause = 0.0 if lived > _SETTLED_SECONDS else min(max(2 * role.pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        role.start_at = time.monotonic() + role.pause
        _log.warning("the %s process %d ended with %s; starting it again", name, process.pid, _ending(code))

    def _stop(self, wake: socket.socket) -> None:
        self.ending = True
        for name, role in reversed(self._roles.items()):
            role.start_at = None
            deadline = time.monotonic() + _STOP_SECONDS[name]
            _signal(role, signal.SIGTERM)
            while role.process is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    _log.error("the %s process does not end: killing it", name)
                    _signal(role, signal.SIGKILL)
                    deadline = time.monotonic() + _STOP_SECONDS[name]
                self._wait(wake, max(left, 0))
            self.listener.close()  # the front, which is the first, has answered what it had
        _log.info("Clary has ended; jobs go on")

    def _announce(self) -> None:
        """Write where the server is, and its processes."""
        told = {"pid": os.getpid(), "url": self.settings.url, "started": self.started.isoformat()}
        pids = {name: role.process.pid for name, role in self._roles.items() if role.process}
        path = self.settings.home / "server.json"
        fresh = path.with_suffix(".json.new")
        fresh.write_bytes(orjson.dumps({**told, "processes": pids}))
        fresh.replace(path)


def _signal(role: _Role, number: signal.Signals) -> None:
    if role.process is not None:
        with suppress(ProcessLookupError):
            os.kill(role.process.pid, number)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


@contextmanager
def _woken_by_signals(end: Callable[[], None]) -> Generator[socket.socket]:
    """A socket that is readable after a signal; SIGTERM and SIGINT call `end` as well."""
    wake, woken = socket.socketpair()
    with wake, woken:
        wake.setblocking(False)
        woken.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: end())
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(-1)


@contextmanager
def _only_server_of(home: Path) -> Generator[None]:
    """The lock is shared with the children: whoever gets it knows that all processes of an earlier server are gone."""
    with (home / "server.lock").open("a+") as lock:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if _holder_lives(lock.fileno()) or time.monotonic() > deadline:
                    raise StartError(
                        f"another Clary runs with the home folder {home}. Stop it with `clary down`, or set CLARY_HOME."
                    ) from None
                time.sleep(0.02)
        os.truncate(lock.fileno(), 0)
        os.write(lock.fileno(), str(os.getpid()).encode())
        yield


def _holder_lives(lock: int) -> bool:
    """Whether the parent that took the lock still runs; otherwise its children are just ending."""
    holder = os.pread(lock, 20, 0)
    return not holder.isdigit() or Path(f"/proc/{int(holder)}").exists()


@contextmanager
def _listening(settings: Settings) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise StartError(
                f"port {settings.port} of {settings.host} cannot be used: {error.strerror}. Set CLARY_PORT to another."
            ) from None
        yield listener


@contextmanager
def _store_begun(settings: Settings) -> Generator[None]:
    """The store's process, started while the rest is got ready; the API process goes on with it, and ends it.

    It ends here where no API process has come to do so.
    """
    from clary.storage import seaweed

    process = None
    try:
        with _noted(signal.SIGTERM, signal.SIGINT) as told:  # raised in between, they would leave a process unknown
            try:
                process = seaweed.begin(settings)
            except seaweed.StoreFailed as error:
                raise StartError(str(error)) from None
        if told:
            sys.exit(0)
        yield
    finally:
        if process is not None:
            process.terminate()


@contextmanager
def _noted(*numbers: signal.Signals) -> Generator[list[int]]:
    """Those of the signals that came within the block, in which they do nothing else."""
    told: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: told.append(number)) for number in numbers}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _configure_log(path: Path) -> None:
    """Log to stderr, and to the file too unless stderr is that file already."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if not path.exists() or not os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat()):
        handlers.append(logging.FileHandler(path))
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, handlers=handlers)
    for name in ("alembic", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
