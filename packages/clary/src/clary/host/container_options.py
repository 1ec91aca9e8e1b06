"""What the engine is asked for when it makes a container: the words of `create`, for podman and docker alike."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from clary.host.layout import OPT_ML
from clary.host.processes import HOST_ID_VARIABLE
from clary.host.sandbox import SandboxError, passed_on

if TYPE_CHECKING:
    from clary.host.sandbox import Plan
    from clary.images.own import OwnImage

PORT = 8080  # on which every serving container listens: each has a network of its own

# What would change what the engine itself does goes on the command line; everything else, keys among it, does not.
_OF_THE_ENGINE = re.compile(
    r"PATH|HOME|USER|SHELL|TMPDIR|TZ|LANG|LC_.*|LD_.*|XDG_.*|DBUS_.*|NOTIFY_SOCKET|LISTEN_.*|SSL_CERT_.*"
    r"|_?CONTAINERS?_.*|_OCI_.*|PODMAN_.*|BUILDAH_.*|STORAGE_.*|REGISTR(Y|IES)_.*|NETAVARK_.*|CNI_.*"
    r"|DOCKER_(HOST|CONFIG|CONTEXT|TLS.*|CERT_PATH|API_VERSION|CLI.*|DEFAULT_PLATFORM|CONTENT_TRUST.*)"
    r"|GO(DEBUG|MAXPROCS|GC|MEMLIMIT|TRACEBACK)"
)
_CODE = "code"  # of the image: AWS's recipe for a container of one's own says COPY train.py /opt/ml/code/train.py
_PATHS_OUTSIDE = {"PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_FIND_LINKS"}


def options(plan: Plan, image: OwnImage) -> list[str]:
    """The words after `create --name …`: options, image, and what the container is to run."""
    spec, engine = plan.spec, image.engine
    words = [*engine.create_options, "--hostname", spec.host, "--pull", "never", "--log-driver", "none"]
    words += ["--no-healthcheck", "--security-opt", "label=disable", "--pids-limit", "-1"]
    words += [*_limits(plan, image), *_network(plan), *_mounts(plan), *_gpus(plan, image), *_variables(plan)]
    entrypoint, arguments = spec.entrypoint, spec.arguments
    if not entrypoint and not arguments:
        arguments = ("train",)
    if entrypoint:
        words += ["--entrypoint", entrypoint[0]]
    return [*words, image.id, *entrypoint[1:], *arguments]


def client_environment(plan: Plan, image: OwnImage) -> dict[str, str]:
    """The environment of the engine's client, from which it takes what the container is to have."""
    given = {name: value for name, value in _given(plan).items() if not _OF_THE_ENGINE.fullmatch(name)}
    return {**os.environ, **given}


def _given(plan: Plan) -> dict[str, str]:
    spec = plan.spec
    outside = {} if spec.network_isolation else passed_on()
    return {
        **{name: value for name, value in outside.items() if name not in _PATHS_OUTSIDE},
        **spec.own_variables,
        **spec.environment,
        HOST_ID_VARIABLE: spec.host_id,
    }


def _variables(plan: Plan) -> list[str]:
    words: list[str] = []
    for name, value in _given(plan).items():
        words += ["--env", f"{name}={value}" if _OF_THE_ENGINE.fullmatch(name) else name]
    return words


def _limits(plan: Plan, image: OwnImage) -> list[str]:
    limits = plan.spec.limits
    memory = str(limits.memory_bytes)
    cpus = min(limits.cpus, float(os.cpu_count() or 1))
    shared = str(limits.memory_bytes // 2)  # as the kernel has it for a whole machine; engines give 64 MB
    wanted = {"--memory": memory, "--memory-swap": memory, "--cpus": f"{cpus:g}"}
    return ["--shm-size", shared, *(word for limit in image.engine.limits for word in (limit, wanted[limit]))]


def _network(plan: Plan) -> list[str]:
    spec = plan.spec
    if plan.network_namespace is not None:
        words = ["--network", f"ns:{plan.network_namespace}"]
        for name, address in plan.hosts.items():
            words += ["--add-host", f"{name}:{address}"]
        return [*words, "--volume", f"{plan.resolv_conf.resolve()}:/etc/resolv.conf:ro"]
    if len(spec.peers) > 1:
        raise SandboxError(
            f"A job with {len(spec.peers)} hosts of the image {spec.image} needs podman, the program ip (iproute2) and "
            "root, to give its hosts names that they can reach. Run it on one host, or start Clary as root."
        )
    if spec.network_isolation:
        return ["--network", "none"]
    return ["--publish", f"127.0.0.1::{PORT}"] if plan.sockets is not None else []


def _mounts(plan: Plan) -> list[str]:
    """Folder by folder, so that what the image itself has in /opt/ml stays: its programs often lie in /opt/ml/code."""
    spec, folder = plan.spec, plan.folder
    shown_otherwise = {_CODE, *(Path(path).name for path in plan.read_only)}
    words: list[str] = []
    for path in sorted(folder.opt_ml.iterdir()):
        if path.is_dir() and path.name not in shown_otherwise:
            mode = ":ro" if plan.sockets is not None and path == folder.model else ""
            words += ["--volume", f"{path}:{OPT_ML}/{path.name}{mode}"]
    for path, shown in plan.read_only.items():
        words += ["--volume", f"{shown}:{path}:ro"]
    places = folder.places_of(spec.checkpoint, spec.tensorboard)
    for path, place in places.items():
        if not place.is_relative_to(folder.opt_ml) or place.is_relative_to(folder.opt_ml / _CODE):
            words += ["--volume", f"{place}:{path}"]
    return words


def _gpus(plan: Plan, image: OwnImage) -> list[str]:
    indices = plan.spec.limits.gpu_indices
    if not indices:
        return []
    if image.engine.is_docker:
        return ["--gpus", f'"device={",".join(map(str, indices))}"']
    return [word for index in indices for word in ("--device", f"nvidia.com/gpu={index}")]
