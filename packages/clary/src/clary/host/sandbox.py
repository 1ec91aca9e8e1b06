"""What a host runs its job in: the contract of a sandbox, and the choice of one.

Three implementations. Framework images run in `bubblewrap` (private /opt/ml, /tmp, processes and, when asked for,
network) or `relocated` (no isolation: the job is told by variables where its /opt/ml lies); images of the user's own
run in `containers`, by podman or docker.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from clary.host import gpus, layout
from clary.host.processes import HOST_ID_VARIABLE
from clary.images.own import OwnImage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clary.host.image_layer import Image
    from clary.host.layout import HostFolder
    from clary.host.limits import ControlGroup
    from clary.host.spec import Checkpoint, Limits, Peer

INSTALL_BUBBLEWRAP = (
    "install bubblewrap (Debian and Ubuntu: sudo apt-get install bubblewrap; Fedora: sudo dnf install bubblewrap)"
)
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SandboxError(Exception):
    """The job cannot be run as it was asked for; the message is a sentence for its user."""


class Order(Protocol):
    """What a sandbox needs to know of what was ordered: a `HostSpec`, or one container of a `ReplicaSpec`."""

    @property
    def host_id(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def image(self) -> str: ...
    @property
    def entrypoint(self) -> tuple[str, ...]: ...
    @property
    def arguments(self) -> tuple[str, ...]: ...
    @property
    def environment(self) -> dict[str, str]: ...
    @property
    def own_variables(self) -> dict[str, str]: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def network_isolation(self) -> bool: ...
    @property
    def checkpoint(self) -> Checkpoint | None: ...
    @property
    def tensorboard(self) -> Checkpoint | None: ...
    @property
    def peers(self) -> Sequence[Peer]: ...


SOCKET_VARIABLE = "CLARY_SERVE_SOCKET"
SOCKET_NAME = "serve.sock"
SOCKETS_INSIDE = "/run/clary"


@dataclass(frozen=True)
class Plan:
    """Everything needed to start a job's command.

    `hosts` are the names and addresses that the job is to resolve; `network_namespace` is the path of one to join;
    `read_only` are folders that it sees at the paths which are the keys, where there is a sandbox;
    `system_programs` is what it sees as /usr/sbin, where that is not the machine's own;
    `sockets` is the folder in which a server is to make its Unix socket, named to it by `CLARY_SERVE_SOCKET`.
    """

    spec: Order
    folder: HostFolder
    image: Image | OwnImage
    group: ControlGroup
    hosts: dict[str, str] = field(default_factory=dict[str, str])
    network_namespace: str | None = None
    resolv_conf: Path = Path("/etc/resolv.conf")
    sockets: Path | None = None
    system_programs: Path | None = None
    read_only: dict[str, Path] = field(default_factory=dict[str, Path])

    @property
    def built(self) -> Image:
        """The image, in a sandbox for those that Clary builds."""
        if isinstance(self.image, OwnImage):
            raise TypeError(f"{self.image.name} is no environment that Clary built")
        return self.image


@dataclass
class Running:
    """A job's command that was started.

    `process` is what the supervisor waits for; its end is the end of everything inside. `output` is the reading end
    of the pipe that stdout and stderr share, so that their order is kept. Where the command is not below `process`,
    `root` is its first process, and `group` what the kernel counts of it. `address` is where a server that was told
    to listen on port 8080 is reached; `notices` are lines for the log.
    """

    process: subprocess.Popen[bytes]
    output: int
    sandboxed: bool
    status: int | None = None  # the reading end of bubblewrap's status messages
    root: int | None = None
    group: ControlGroup | None = None
    address: str | None = None
    notices: list[str] = field(default_factory=list[str])

    @property
    def measured(self) -> int:
        """The process below which everything is that the command uses."""
        return self.root or self.process.pid


def start_with_output(
    command: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: tuple[int, ...] = (),
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command in a session of its own, with no input; its process and the reading end of its output.

    The arguments are those of `subprocess.Popen`.
    """
    output, write_output = os.pipe()
    try:
        process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=write_output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(write_output)
    return process, output


class Sandbox(Protocol):
    """Starts one job's command.

    Contract, for every implementation:
    - `start` is called from a thread that lives as long as the job may: the command dies with it.
    - the command's exit code is the process's, or 128 + n when signal n killed it.
    - everything that the command started carries `CLARY_HOST_ID` unless it removed it itself.
    """

    def start(self, plan: Plan) -> Running:
        """Start the command; raises `SandboxError` when that cannot be."""
        ...

    def main_process(self, running: Running) -> int | None:
        """The command's process id as seen from outside; None while it is not there."""
        ...

    def kill(self, running: Running) -> None:
        """End the command and everything below it at once."""
        ...

    def problem(self, running: Running) -> str:
        """Why the sandbox itself failed, after its end; empty when the command did run."""
        ...

    def clean(self, running: Running) -> None:
        """Remove what is left when all has ended and been asked about."""
        ...


def choose(spec: Order, image: Image | OwnImage) -> Sandbox:
    """The best sandbox of this machine; raises `SandboxError` when the job needs one that is not there."""
    if isinstance(image, OwnImage):
        from clary.host.containers import Container

        return Container()
    from clary.host.bubblewrap import Bubblewrap, unavailable
    from clary.host.relocated import Relocated, unsuitable

    reason = unavailable()
    if not reason:
        return Bubblewrap()
    if need := unsuitable(spec):
        raise SandboxError(f"{need}, and {reason}. To run it, {INSTALL_BUBBLEWRAP}, then start the job again.")
    return Relocated()


def command(spec: Order, image: Image) -> tuple[str, ...]:
    """What the container would run: AWS's rules for ContainerEntrypoint and ContainerArguments."""
    if spec.entrypoint or spec.arguments:
        return (*spec.entrypoint, *spec.arguments)
    return image.command_train


def environment(spec: Order, image: Image, home: str, path: str) -> dict[str, str]:
    """The variables of the job's command: the image's, then the platform's and the request's.

    Arguments:
        spec: what was ordered.
        image: the prepared image.
        home: the job's home directory, as the job sees it.
        path: the folders of executables that come before the system's.
    """
    return {
        "HOME": home,
        "USER": "root",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "UTF-8",
        "TAR_OPTIONS": "--no-same-owner",  # the only user there is root: archives of others' files unpack all the same
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        **passed_on(),
        **image.environment,
        "PATH": f"{path}:{image.environment.get('PATH', _SYSTEM_PATH)}",
        **_driver(spec, image),
        **spec.own_variables,
        **spec.environment,
        HOST_ID_VARIABLE: spec.host_id,
    }


def _driver(spec: Order, image: Image) -> dict[str, str]:
    """What lets a job with GPUs find the driver's libraries where the machine's loader would not."""
    folder = gpus.driver_folder() if spec.limits.gpu_indices else None
    if folder is None:
        return {}
    own = image.environment.get("LD_LIBRARY_PATH")
    return {"LD_LIBRARY_PATH": f"{own}:{folder}" if own else str(folder)}


def passed_on() -> dict[str, str]:
    """How this machine reaches package registries: pip inside the job needs the same."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


_PASSED_ON = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_FIND_LINKS",
    "PIP_CERT",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "TZ",
)


def check_command(argv: tuple[str, ...], plan: Plan) -> None:
    """Raise `SandboxError` when the command surely does not exist, instead of letting exec fail without a word."""
    if not argv:
        raise SandboxError(f"The image {plan.spec.image} has no command to run: give ContainerEntrypoint.")
    name = argv[0]
    if name.startswith(layout.OPT_ML + "/"):
        found = (plan.folder.opt_ml / name.removeprefix(layout.OPT_ML + "/")).exists()
    elif "/" in name:
        found = Path(name).exists()
    else:
        path = plan.spec.environment.get("PATH", f"{plan.built.root}/bin:{_SYSTEM_PATH}")
        found = shutil.which(name, path=path) is not None
    if not found:
        raise SandboxError(
            f"The command {name!r} was not found in the image {plan.spec.image}. ContainerEntrypoint and "
            "ContainerArguments must name a program of the image, or a path below /opt/ml that a channel fills."
        )
