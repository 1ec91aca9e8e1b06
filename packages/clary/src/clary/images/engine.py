"""The program that runs images of the user's own: podman, or docker where there is no podman.

Neither is needed for framework images. What works on a machine is found once by trying, on an image with nothing in
it, and kept in `engine.json` of the images' home: some machines refuse containers unless they are asked for with
other words (another runtime, limits that the kernel lets us set).
"""

from __future__ import annotations

import json
import os
import resource
import secrets
import shlex
import shutil
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INSTALL_PODMAN = "install podman (Debian and Ubuntu: sudo apt-get install podman; Fedora: sudo dnf install podman)"

_RECORD = "engine.json"
_TRIAL_IMAGE = "localhost/clary-trial:1"
_TRIAL_PROGRAM = "trial"
_CALL_SECONDS = 120.0
_RUNTIMES = ("runc", "crun")
_MOST_PROCESSES = 32_768
# What a machine's control groups may not let anybody set, or not those who are not root.
_LIMITS = (("--memory", "--memory-swap", "--cpus"), ("--memory", "--cpus"), ("--memory",), ())


class EngineError(Exception):
    """The engine did not do what it was asked; the message is what it said."""


class EngineUnavailable(Exception):
    """No engine runs containers here; the message says why, in words that continue a sentence."""


@dataclass(frozen=True)
class Wish:
    """What the settings ask for.

    `engine` is a program with the words that follow it, for instance "podman --runtime runc"; `options` are further
    words of its `create`. Both empty: whatever works.
    """

    engine: str = ""
    options: str = ""


@dataclass(frozen=True)
class Engine:
    """A program that runs containers here, and the words without which it would not.

    `options` come before its command, `create_options` after `create`; `limits` are those that it can set here.
    """

    program: str
    options: tuple[str, ...] = ()
    create_options: tuple[str, ...] = ()
    limits: tuple[str, ...] = ("--memory", "--memory-swap", "--cpus")

    @staticmethod
    def read(written: Mapping[str, Any]) -> Engine:
        """The engine that `asdict` made `written` of, through JSON."""
        options, create_options = tuple(written["options"]), tuple(written["create_options"])
        return Engine(str(written["program"]), options, create_options, tuple(written["limits"]))

    @property
    def name(self) -> str:
        """ "podman" or "docker"."""
        return Path(self.program).name

    @property
    def is_docker(self) -> bool:
        """Whether a daemon runs the containers, as docker's does."""
        return self.name.startswith("docker")

    @property
    def is_rootless(self) -> bool:
        """Whether containers live in a user namespace of the person who runs the engine."""
        return not self.is_docker and os.geteuid() != 0

    @property
    def joins_networks(self) -> bool:
        """Whether its containers can be put into networks that Clary makes, as the hosts of one job need."""
        return not self.is_docker and not self.is_rootless and shutil.which("ip") is not None

    def command(self, *words: str) -> list[str]:
        """The command line of one call."""
        return [self.program, *self.options, *words]

    def call(
        self,
        *words: str,
        given: bytes | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> str:
        """What one call prints; raises `EngineError` with what it said instead.

        Args:
            words: of the command line.
            given: standard input.
            environment: the client's, if not ours.
            folder: where it runs, if not where we do: what watches over a container leaves files there.
        """
        try:
            done = subprocess.run(
                self.command(*words),
                input=given,
                stdin=subprocess.DEVNULL if given is None else None,
                env=environment,
                cwd=folder,
                capture_output=True,
                timeout=_CALL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"{self.name} {words[0]}: {error}") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            no_word = f"{self.name} {words[0]} ended with code {done.returncode}"
            raise EngineError(said[-1].removeprefix("Error: ") if said else no_word)
        return done.stdout.decode("utf-8", "replace").strip()

    def version(self) -> str:
        """Its name and version, for people."""
        with suppress(EngineError):
            return self.call("--version")
        return self.name


def find(home: Path, wish: Wish | None = None) -> Engine:
    """The engine that works here, tried once in the life of a machine's boot. The first time takes a second or two.

    Args:
        home: the images' home, where the answer is kept.
        wish: what the settings ask for; None: what they asked for the last time.

    Raises:
        EngineUnavailable: none does.
    """
    record = _read(home)
    wish = wish or Wish(**record.get("wish", {}))
    if record.get("wish") == asdict(wish) and record.get("boot") == _boot():
        with suppress(KeyError):  # an older version of Clary wrote it
            engine = Engine.read(record["engine"])
            if record["changed"] == _changed(engine.program):
                return engine
    engine = _try_all(wish)
    if not home.parent.is_dir():
        return engine  # `clary doctor` before the first start: there is no place to keep anything yet
    home.mkdir(exist_ok=True)
    part = home / f"{_RECORD}.{secrets.token_hex(4)}"
    made = {"wish": asdict(wish), "boot": _boot(), "changed": _changed(engine.program), "engine": asdict(engine)}
    part.write_text(json.dumps(made))
    part.replace(home / _RECORD)
    return engine


def has_been_tried(home: Path) -> bool:
    """Whether an image of the user's own was ever asked for."""
    return (home / _RECORD).exists()


def _try_all(wish: Wish) -> Engine:
    reasons: list[str] = []
    for words in [shlex.split(wish.engine)] if wish.engine else [["podman"], ["docker"]]:
        program = shutil.which(words[0])
        if program is None:
            reasons.append(f"{words[0]} is not installed")
            continue
        try:
            return _working(Engine(program, tuple(words[1:]), tuple(shlex.split(wish.options))))
        except EngineError as error:
            reasons.append(f"{words[0]} does not work on this machine ({error})")
    raise EngineUnavailable(" and ".join(reasons))


def _working(engine: Engine) -> Engine:
    """`engine` as it is, or else with the first further words with which it makes a container."""
    try:
        engine.call("image", "inspect", _TRIAL_IMAGE)
    except EngineError:
        try:
            engine.call("import", "-", _TRIAL_IMAGE, given=_nearly_nothing())
        except EngineError as error:
            raise EngineError(f"it stores no image: {error}") from error
    first: EngineError | None = None
    for limits in _LIMITS:
        for candidate in _candidates(engine):
            try:
                _make_container(replace(candidate, limits=limits))
            except EngineError as error:
                first = first or error
            else:
                return replace(candidate, limits=limits)
    assert first is not None
    raise first


def _candidates(engine: Engine) -> Iterator[Engine]:
    yield engine
    runtimes: list[tuple[str, ...]] = [()]
    if not engine.is_docker:
        runtimes += [("--runtime", name) for name in _RUNTIMES if shutil.which(name)]
    for bounds in ((), _bounds(resource.getrlimit(resource.RLIMIT_NOFILE)[1], _MOST_PROCESSES), _bounds(1024, 4096)):
        for runtime in runtimes:
            if runtime or bounds:
                yield Engine(engine.program, engine.options + runtime, engine.create_options + bounds)


def _bounds(files: int, processes: int) -> tuple[str, ...]:
    """Root's containers are given more open files and processes than root without CAP_SYS_RESOURCE may grant."""
    return ("--ulimit", f"nofile={files}:{files}", "--ulimit", f"nproc={processes}:{processes}")


def _make_container(engine: Engine) -> None:
    """Make a container up to the moment at which its program would begin."""
    name = f"clary-trial-{secrets.token_hex(6)}"
    words = ("--name", name, "--network", "none", "--pids-limit", "-1", "--entrypoint", f"/{_TRIAL_PROGRAM}")
    limits = [word for limit in engine.limits for word in (limit, "1" if limit == "--cpus" else str(2**26))]
    engine.call("create", *engine.create_options, *words, *limits, _TRIAL_IMAGE)
    try:
        if engine.is_docker:
            engine.call("start", name)
        else:
            engine.call("init", name)
    except EngineError as error:
        if "exec format error" not in str(error).lower():  # of the empty file: all before it went well
            raise
    finally:
        with suppress(EngineError):
            engine.call("rm", "--force", name)


def _nearly_nothing() -> bytes:
    """An archive with one empty file that may be executed."""
    import io
    import tarfile

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        file = tarfile.TarInfo(_TRIAL_PROGRAM)
        file.mode = 0o755
        tar.addfile(file)
    return archive.getvalue()


def _read(home: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return json.loads((home / _RECORD).read_text())
    return {}


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _changed(program: str) -> int:
    with suppress(OSError):
        return Path(program).stat().st_mtime_ns
    return 0
