"""The sandbox of an image of the user's own: a container that podman or docker makes.

The engine makes it with networks and mounts in place, we let Clary's ports through, and then its program begins. The
supervisor waits for the engine's client, which shows the output and ends with the program's exit code. A container is
not below the supervisor, so a guard removes it when the supervisor is gone, whoever killed that; and `remove_all`
removes what is left when the host is ended.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from clary.host import container_link, processes
from clary.host.container_memory import Accounts
from clary.host.container_options import PORT, client_environment, options
from clary.host.network import loopback_ports
from clary.host.sandbox import SOCKET_NAME, Plan, Running, Sandbox, SandboxError, passed_on, start_with_output
from clary.images.engine import Engine, EngineError
from clary.images.own import OwnImage

if TYPE_CHECKING:
    from collections.abc import Callable

    from clary.host.layout import HostFolder

HOST_LABEL = "clary.host"

_MARK = "engine.json"
_START_SECONDS = 60.0
_PORT_TAKEN = ("address already in use", "port is already allocated")  # since the engine chose it


class Container(Sandbox):
    """Runs one container of an image of the user's own."""

    def __init__(self) -> None:
        self._name = ""
        self._engine: Engine | None = None
        self._folder: HostFolder | None = None
        self._closers: list[Callable[[], None]] = []
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self, plan: Plan) -> Running:
        """Make the container and start its program; raises `SandboxError` with what the engine said."""
        image = plan.image
        assert isinstance(image, OwnImage)
        engine, self._folder = image.engine, plan.folder
        self._engine = engine
        _write_mark(plan.folder.root, engine)
        _let_anybody_write(plan)
        try:
            try:
                return self._try(plan, image)
            except EngineError as error:
                if not any(words in str(error) for words in _PORT_TAKEN):
                    raise
                return self._try(plan, image)
        except EngineError as error:
            said = f"{engine.name} could not start the image {plan.spec.image}: {_plain(error)}"
            raise SandboxError(said) from error

    def _try(self, plan: Plan, image: OwnImage) -> Running:
        engine, spec = image.engine, plan.spec
        self._name = f"clary-{spec.host_id}-{secrets.token_hex(3)}"
        self._guard = _guard(engine, self._name)
        try:
            words = ("--name", self._name, "--label", f"{HOST_LABEL}={spec.host_id}")
            engine.call("create", *words, *options(plan, image), environment=client_environment(plan, image))
            if not engine.is_docker:
                engine.call("init", self._name, folder=plan.folder.root)
            return self._begin(plan, engine)
        except EngineError:
            self._remove()
            raise

    def main_process(self, running: Running) -> int | None:
        """The program's first process; None where we may not signal it, so that the client passes signals on."""
        if running.root is None:
            return None
        try:
            os.kill(running.root, 0)
        except OSError:
            return None
        return running.root

    def kill(self, running: Running) -> None:
        """End the container at once: with its first process the kernel ends all others."""
        assert self._engine is not None
        try:
            os.kill(running.root or running.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            processes.send(running.process.pid, signal.SIGKILL)  # a client that has not noticed
        except PermissionError:
            with suppress(EngineError):
                self._engine.call("kill", "--signal", "KILL", self._name)

    def problem(self, running: Running) -> str:
        """What the engine says went wrong, where that was not the program itself."""
        assert self._engine is not None
        with suppress(EngineError):
            said = self._engine.call("inspect", "--format", "{{.State.Error}}", self._name)
            return f"{self._engine.name} reports: {said}" if said and said != "<no value>" else ""
        return ""

    def clean(self, running: Running) -> None:
        """Remove the container, and make its files ours where its users are not."""
        self._remove()
        if self._engine is not None and self._engine.is_rootless and self._folder is not None:
            with suppress(EngineError):
                self._engine.call("unshare", "chown", "--recursive", "0:0", str(self._folder.opt_ml))

    def _begin(self, plan: Plan, engine: Engine) -> Running:
        """Start the program of a container that is made, and reach into it: before that where the engine can."""
        started = self._attach(engine) if engine.is_docker else None
        try:
            main, port = _where(engine, self._name)
        except EngineError:
            if started is not None:
                started.process.wait()
                os.close(started.output)
            raise
        if main == 0:  # it has ended already
            return started or self._attach(engine)
        notices = self._link(plan, engine, main)
        accounts = Accounts.of(main, plan.spec.limits.memory_bytes, self._was_out_of_memory)
        running = started or self._attach(engine)
        running.root, running.group, running.notices = main, accounts, notices
        running.address = f"127.0.0.1:{port}" if port else None
        return running

    def _attach(self, engine: Engine) -> Running:
        process, output = start_with_output(engine.command("start", "--attach", self._name))
        return Running(process, output, sandboxed=True)

    def _link(self, plan: Plan, engine: Engine, main: int) -> list[str]:
        spec, rootless = plan.spec, engine.is_rootless
        try:
            if spec.network_isolation and plan.sockets is not None:
                socket = plan.sockets / SOCKET_NAME
                self._closers.append(container_link.let_in(main, socket, PORT, rootless=rootless))
            elif not spec.network_isolation and plan.network_namespace is None:
                ports = loopback_ports((*spec.environment.values(), *passed_on().values()))
                self._closers += container_link.let_out(main, ports, rootless=rootless)
        except container_link.NoLink as error:
            if not Path(f"/proc/{main}").exists():  # of a daemon's: it began before it could be linked, and has ended
                return []
            what = "cannot be reached" if spec.network_isolation else "cannot reach Clary"
            return [f"This container {what}: its network could not be entered ({error})."]
        return []

    def _was_out_of_memory(self) -> bool:
        assert self._engine is not None
        with suppress(EngineError):
            return self._engine.call("inspect", "--format", "{{.State.OOMKilled}}", self._name) == "true"
        return False

    def _remove(self) -> None:
        assert self._engine is not None
        while self._closers:
            self._closers.pop()()
        _remove(self._engine, [self._name])
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            assert self._guard.stdin is not None
            self._guard.stdin.close()


def remove_all(folder: Path, host_id: str) -> None:
    """Remove every container of a host, whoever started it. Costs nothing for a host that had none.

    Arguments:
        folder: the host's.
        host_id: which containers bear as a label.
    """
    for mark in (folder / _MARK, *folder.glob(f"containers/*/{_MARK}")):
        try:
            engine = Engine.read(json.loads(mark.read_bytes()))
        except OSError:
            continue
        with suppress(EngineError):
            found = engine.call("ps", "--all", "--quiet", "--filter", f"label={HOST_LABEL}={host_id}").split()
            _remove(engine, found)


def _guard(engine: Engine, name: str) -> subprocess.Popen[bytes]:
    """A shell that reads from us until we are gone, and then removes the container."""
    remove = engine.command(*_removing(engine), name)
    return subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" HUP INT TERM; read _; exec "$@" >/dev/null 2>&1', "clary-guard", *remove],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != processes.HOST_ID_VARIABLE},
    )


def _remove(engine: Engine, names: list[str]) -> None:
    """Remove containers at once, running or not. A second try is for one that was being made."""
    for _ in range(2):
        if not names:
            return
        with suppress(EngineError):
            engine.call(*_removing(engine), *names)
            return


def _removing(engine: Engine) -> tuple[str, ...]:
    return ("rm", "--force") if engine.is_docker else ("rm", "--force", "--time", "0")


def _where(engine: Engine, name: str) -> tuple[int, int | None]:
    """The program's first process, and the port of this machine's loopback that leads to the container's.

    The process is 0 where the program has ended. A daemon is waited for until it has started the container.
    """
    form = "{{json .State}}\n{{json .NetworkSettings.Ports}}"
    deadline = time.monotonic() + _START_SECONDS
    while True:
        state, ports = (json.loads(line) or {} for line in engine.call("inspect", "--format", form, name).splitlines())
        if state["Pid"] or state["Status"] in ("exited", "dead"):
            bound = ports.get(f"{PORT}/tcp") or []
            return state["Pid"], int(bound[0]["HostPort"]) if bound else None
        if state.get("Error") or time.monotonic() > deadline:
            raise EngineError(state.get("Error") or f"the container had not started after {_START_SECONDS:g} seconds")
        time.sleep(0.02)


def _let_anybody_write(plan: Plan) -> None:
    """An image may run its program as another user than root."""
    spec, folder = plan.spec, plan.folder
    written = (folder.model, folder.output_data.parent, folder.output_data)
    for path in (*written, *folder.places_of(spec.checkpoint, spec.tensorboard).values()):
        if path.is_dir():
            path.chmod(0o777)


def _write_mark(folder: Path, engine: Engine) -> None:
    part = folder / f"{_MARK}.part"
    part.write_text(json.dumps(asdict(engine)))
    part.replace(folder / _MARK)


def _plain(error: EngineError) -> str:
    """What the engine said, without the names of the programs through which it came."""
    text = str(error)
    for mark in ("error during container init: ", "unable to start container process: "):
        text = text.rpartition(mark)[2] or text
    return text.removesuffix(": OCI runtime attempted to invoke a command that was not found")
