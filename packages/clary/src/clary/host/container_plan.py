"""What a sandbox is told of one container of a replica."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clary.host import bubblewrap, container_options
from clary.host.layout import OPT_ML, HostFolder
from clary.host.processes import CONTAINER_VARIABLE
from clary.host.sandbox import Plan
from clary.host.serving_spec import ModelSource
from clary.images.own import OwnImage

if TYPE_CHECKING:
    from clary.host.image_layer import Image
    from clary.host.limits import ControlGroup
    from clary.host.serving_spec import ReplicaSpec, ServingContainer
    from clary.host.spec import Limits, Peer

_SAFE_PORTS = 100  # a container's own, for servers that it starts
_FIRST_SAFE_PORT, _LAST_SAFE_PORT = 20_000, 32_000  # below those that the kernel gives out


@dataclass(frozen=True)
class ContainerOrder:
    """One container, as a sandbox wants it told."""

    host_id: str
    host: str
    image: str
    entrypoint: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: dict[str, str]
    own_variables: dict[str, str]
    limits: Limits
    network_isolation: bool
    checkpoint: None = None
    tensorboard: None = None
    peers: Sequence[Peer] = ()


def folder_of(folder: HostFolder, container: ServingContainer) -> HostFolder:
    """The container's own part of the replica's folder."""
    return HostFolder(folder.root / "containers" / container.hostname)


def make_folders(folder: HostFolder, container: ServingContainer) -> HostFolder:
    """Make what the container's sandbox is made of."""
    inside = folder_of(folder, container)
    for path in (inside.model, inside.opt_ml / "code", inside.home, inside.temporary, inside.etc):
        path.mkdir(parents=True, exist_ok=True)
    if container.mode == "MultiModel":
        inside.models.mkdir(exist_ok=True)
        (inside.opt_ml / inside.models.name).mkdir(exist_ok=True)  # where the sandbox shows them
    inside.temporary.chmod(0o1777)
    return inside


def shared_code(container: ServingContainer) -> ModelSource | None:
    """Where the inference.py lies that all models of a multi-model container share, if its variables name one."""
    bucket = container.environment.get("SAGEMAKER_MULTI_MODEL_UNIVERSAL_BUCKET")
    prefix = container.environment.get("SAGEMAKER_MULTI_MODEL_UNIVERSAL_PREFIX", "")
    if container.mode != "MultiModel" or not bucket:
        return None
    return ModelSource(s3_uri=f"s3://{bucket}/{prefix}", kind="S3Prefix", compression="None")


def models_inside(image: Image | OwnImage, own: HostFolder) -> str:
    """The folder of a multi-model container's models, as the container sees it."""
    relocated = not isinstance(image, OwnImage) and bubblewrap.unavailable()
    return str(own.models) if relocated else f"{OPT_ML}/{own.models.name}"


def make(
    spec: ReplicaSpec,
    folder: HostFolder,
    container: ServingContainer,
    image: Image | OwnImage,
    group: ControlGroup,
    sockets: Path,
    port: int,
) -> Plan:
    """The plan for one start of a container, which is to listen on `port` or in the folder `sockets`."""
    given = bool(container.entrypoint or container.arguments)
    several_models = container.mode == "MultiModel"
    variables = {
        CONTAINER_VARIABLE: container.hostname,
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "DLC_CONTAINER_TYPE": "inference",
    }
    if several_models or len(spec.containers) > 1:
        first = _free_ports()
        variables["SAGEMAKER_SAFE_PORT_RANGE"] = f"{first}-{first + _SAFE_PORTS - 1}"
    if several_models:
        variables["SAGEMAKER_MULTI_MODEL"] = "true"
        variables["CLARY_MEMORY_BYTES"] = str(spec.limits.memory_bytes // len(spec.containers))
    own = folder_of(folder, container)
    entrypoint, arguments = container.entrypoint, container.arguments
    if isinstance(image, OwnImage):
        variables["SAGEMAKER_BIND_TO_PORT"] = str(container_options.PORT)
        arguments = arguments if given else ("serve",)
    elif not given:
        entrypoint = image.command_serve
    return Plan(
        spec=ContainerOrder(
            host_id=spec.host_id,
            host=container.hostname,
            image=container.image,
            entrypoint=entrypoint,
            arguments=arguments,
            environment=container.environment,
            own_variables=variables,
            limits=spec.limits,
            network_isolation=spec.network_isolation,
        ),
        folder=own,
        image=image,
        group=group,
        hosts={each.hostname: "127.0.0.1" for each in spec.containers},
        sockets=sockets,
        read_only={f"{OPT_ML}/{own.models.name}": own.models} if several_models else {},
    )


def _free_ports() -> int:
    """The first of a row of ports, chosen so that containers on one machine seldom meet."""
    for _ in range(20):
        first = random.randrange(_FIRST_SAFE_PORT, _LAST_SAFE_PORT, _SAFE_PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", first)):
                return first
    return _FIRST_SAFE_PORT
