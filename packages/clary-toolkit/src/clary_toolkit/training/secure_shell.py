"""What `ssh` and `sshd` are to a job's hosts on AWS, without keys, accounts or a server of the machine.

SDK v3 brings its own launcher of MPI programs. It starts /usr/sbin/sshd on every host, tries connections with paramiko
(`clary_toolkit.compat.paramiko`), runs `ssh HOST COMMAND`, and so does the mpirun that it calls. The sandbox puts these
two in their places; both go by `remote_start`.

    python -m clary_toolkit.training.secure_shell sshd
    python -m clary_toolkit.training.secure_shell ssh [OPTIONS] HOST COMMAND…
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

from clary_toolkit.training import remote_start
from clary_toolkit.training.cluster_ports import port_among
from clary_toolkit.training.errors import ClientError
from clary_toolkit.training.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_WITH_A_VALUE = set("BbcDEeFIiJLlmOopQRSWw")  # ssh's options that take one


def serve(environ: Mapping[str, str]) -> None:
    """Run what the job's other hosts ask for, as long as the process that started this one lives."""
    job = _job(environ)
    own, token = str(job["current_host"]), environ.get(remote_start.TOKEN_VARIABLE, "")
    parent = os.getppid()
    if token:  # a host that is alone has none, and nobody to hear
        remote_start.Listener(own, _ports(job, environ)[own], token, environ, environ.get("HOME", "/"))
    while os.getppid() == parent:
        time.sleep(0.2)


def run_there(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run ssh's command line; its exit code, or 255 where there is no connection. Other hosts are the real ssh's."""
    host, command = parsed(arguments)
    ports = _ports(_job(environ), environ)
    if host not in ports:
        return _real_ssh(arguments, environ)
    variables = {**environ, remote_start.PORT_VARIABLE: json.dumps(ports)}
    try:
        return remote_start.run_there(host, " ".join(command) or ":", variables)
    except (ClientError, KeyError) as error:
        print("ssh: connect to host {}: {}".format(host, error), file=sys.stderr)
        return 255


def can_connect(host: str, environ: Mapping[str, str], patience_seconds: float = 3.0) -> bool:
    """Whether a host of this job runs what it is asked to."""
    ports = _ports(_job(environ), environ)
    if host not in ports:
        return False
    variables = {**environ, remote_start.PORT_VARIABLE: json.dumps(ports)}
    try:
        return remote_start.run_there(host, ":", variables, patience_seconds) == 0
    except (ClientError, KeyError):
        return False


def parsed(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The host, without a user, and the command of ssh's command line."""
    rest = list(arguments)
    while rest and rest[0].startswith("-") and len(rest[0]) > 1:
        option = rest.pop(0)
        if option[1] in _WITH_A_VALUE and len(option) == 2 and rest:
            rest.pop(0)
    if not rest:
        return "", []
    return rest[0].rpartition("@")[2], rest[1:]


def _job(environ: Mapping[str, str]) -> dict[str, Any]:
    from clary_toolkit.training.environment import read_json

    return read_json(Paths.of(environ), "resourceconfig.json")


def _ports(job: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, int]:
    hosts = list(job["hosts"])
    name = environ.get("TRAINING_JOB_NAME", "")
    return {host: port_among(hosts, name, host, remote_start.PORT) for host in hosts}


def _real_ssh(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    own = os.path.dirname(shutil.which("ssh") or "")
    others = [folder for folder in environ.get("PATH", "").split(":") if folder and folder != own]
    program = shutil.which("ssh", path=":".join(others))
    if program is None:
        print("ssh: {} is no host of this job, and this machine has no ssh".format(arguments), file=sys.stderr)
        return 255
    return subprocess.call([program, *arguments], env=dict(environ))


def main(arguments: list[str]) -> int:
    """The two commands."""
    if arguments[0] == "sshd":
        serve(os.environ)
        return 0
    return run_there(arguments[1:], os.environ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
