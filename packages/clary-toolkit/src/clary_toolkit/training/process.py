"""Running a command for the user: its output passed on byte by byte, its end remembered, SIGTERM forwarded to it."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess

from clary_toolkit.training.errors import ClientError, StoppedBeforeStart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

RANK_MODULE = "clary_toolkit.training.rank"
"""What every rank of MPI is started as."""

_HOST_ID = "CLARY_HOST_ID"
_TAIL_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024


class Outcome:
    """How a command ended: its exit code (negative: the signal that killed it) and the end of what it printed."""

    def __init__(self, exit_code: int, tail: bytes) -> None:
        self.exit_code = exit_code
        self.tail = tail


class _Forwarder:
    """SIGTERM, from the moment it is installed to the end of the process, goes to the command that is running.

    AWS's toolkit dies of SIGTERM and its script never hears of it. Docker's stop, and Clary's, signal one process only.
    """

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.with_descendants = False
        self.to_ranks = False
        self.stopping = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        if self.child is not None:
            self.deliver(self.child)

    def deliver(self, child: subprocess.Popen[bytes]) -> None:
        if self.to_ranks and terminate_ranks():
            return
        # A shell waits for its foreground command and passes nothing on to it, so both are told.
        targets = [child.pid] + (_descendants(child.pid) if self.with_descendants else [])
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


_forwarder = _Forwarder()


def forward_termination() -> None:
    """Send SIGTERM on to whatever command `run` is running, from now on; SIGINT reaches it by the terminal itself."""
    signal.signal(signal.SIGTERM, _forwarder)
    signal.signal(signal.SIGINT, lambda number, frame: None)


def forward_to_ranks() -> None:
    """Send SIGTERM on to this host's ranks of MPI themselves: mpirun would kill them a second later."""
    _forwarder.to_ranks = True


def terminate_ranks() -> bool:
    """Send SIGTERM to the ranks of MPI that run on this host; whether there is any."""
    found = ranks_here()
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return bool(found)


def ranks_here() -> list[int]:
    """The processes of this host's ranks of MPI."""
    found: list[int] = []
    own = os.environ.get(_HOST_ID, "").encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open("/proc/{}/cmdline".format(entry), "rb") as file:
                words = file.read().split(b"\0")
            if words[1:3] != [b"-m", RANK_MODULE.encode()]:
                continue
            with open("/proc/{}/environ".format(entry), "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue  # it has just ended
        # Without a sandbox between us, another job's ranks are seen too.
        if not own or _HOST_ID.encode() + b"=" + own in variables:
            found.append(int(entry))
    return found


def is_stopping() -> bool:
    """Whether SIGTERM has come."""
    return _forwarder.stopping


def signal_text(number: int) -> str:
    """A signal's name and number, as AWS's toolkit writes them."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "a signal"
    return "{} (signal {})".format(name, number)


def run(
    command: list[str],
    folder: str,
    environ: Mapping[str, str],
    is_shell: bool = False,
    rewrite: Callable[[bytes, int], bytes] | None = None,
) -> Outcome:
    """Run `command` in `folder` to its end.

    Its output goes where ours goes, in order, and unchanged unless `rewrite` is given, which gets whole lines and 1 or
    2, for stdout or stderr. The call returns when the command itself has ended, though processes that it left behind
    may still hold its output open.

    Raises StoppedBeforeStart when SIGTERM has come already, ClientError when the command cannot be started.
    """
    if _forwarder.stopping:
        raise StoppedBeforeStart("The job was stopped (SIGTERM) before its script started.")
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    previous_wakeup = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    try:
        child, relay = _start(command, folder, environ, rewrite)
        _forwarder.with_descendants = is_shell
        _forwarder.child = child
        if _forwarder.stopping:
            _forwarder.deliver(child)
        try:
            relay.follow(child, wake_read)
        finally:
            _forwarder.child = None
        return Outcome(child.wait(), bytes(relay.tail))
    finally:
        signal.set_wakeup_fd(previous_wakeup)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(wake_read)
        os.close(wake_write)


def _start(
    command: list[str], folder: str, environ: Mapping[str, str], rewrite: Callable[[bytes, int], bytes] | None
) -> tuple[subprocess.Popen[bytes], _Relay]:
    # One pipe where our own outputs are one file, so that the order between them is kept.
    is_one = os.path.samestat(os.fstat(1), os.fstat(2))
    out_read, out_write = os.pipe()
    err_read, err_write = (out_read, out_write) if is_one else os.pipe()
    try:
        child = subprocess.Popen(command, cwd=folder, env=dict(environ), stdout=out_write, stderr=err_write)
    except OSError as error:
        raise ClientError("The command {!r} cannot be started: {}".format(" ".join(command), error)) from error
    finally:
        for descriptor in {out_write, err_write}:
            os.close(descriptor)
    return child, _Relay({out_read: 1, err_read: 2}, rewrite)


class _Relay:
    """Copies pipes to our own outputs and keeps the last bytes that passed."""

    def __init__(self, targets: dict[int, int], rewrite: Callable[[bytes, int], bytes] | None) -> None:
        self.targets = targets
        self.tail = bytearray()
        self._rewrite = rewrite
        self._begun = dict.fromkeys(targets, b"")  # lines whose end has not come yet, where they are rewritten
        for source in targets:
            os.set_blocking(source, False)

    def follow(self, child: subprocess.Popen[bytes], wake: int) -> None:
        """Copy until the child has ended and all it wrote has passed."""
        selector = selectors.DefaultSelector()
        for descriptor in list(self.targets) + [wake]:
            selector.register(descriptor, selectors.EVENT_READ)
        open_sources = set(self.targets)
        while child.poll() is None:
            # The timeout only guards against a signal that came between poll() and select().
            for key, _ in selector.select(timeout=1.0):
                source = key.fd
                if source == wake:
                    _drain(wake)
                elif not self._copy(source):
                    selector.unregister(source)
                    open_sources.discard(source)
        for source in open_sources:
            while self._copy(source):
                pass
        selector.close()
        for source in self.targets:
            if self._begun[source]:
                self._pass_on(source, self._begun[source])
            os.close(source)

    def _copy(self, source: int) -> bool:
        """Pass on what is there; False when nothing is or will be."""
        try:
            chunk = os.read(source, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            return False
        if self._rewrite is not None:
            lines, newline, begun = (self._begun[source] + chunk).rpartition(b"\n")
            self._begun[source] = begun
            chunk = lines + newline
        self._pass_on(source, chunk)
        return True

    def _pass_on(self, source: int, chunk: bytes) -> None:
        if self._rewrite is not None:
            chunk = self._rewrite(chunk, self.targets[source])
        self.tail += chunk
        del self.tail[:-_TAIL_BYTES]
        _write_all(self.targets[source], chunk)


def _write_all(target: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:
            select.select([], [target], [])  # our output was given to us non-blocking
        except OSError:
            return  # nobody reads our output any more; the script is still to be run to its end


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 4096):
            pass
    except BlockingIOError:
        pass


def _descendants(pid: int) -> list[int]:
    """Processes below `pid`, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open("/proc/{}/stat".format(entry), "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        found += level
    return found
