"""The folder of one host, and the /opt/ml tree that a training container finds.

Paths and files follow the container contract: `docs/reference` and AWS's "How Amazon SageMaker AI Provides Training
Information" page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clary.host.spec import Checkpoint, HostSpec

OPT_ML = "/opt/ml"
DEFAULT_GROUP = "homogeneousCluster"


@dataclass(frozen=True)
class HostFolder:
    """Where things lie on disk. Only `opt_ml`, `home`, `temporary` and `layer` are ever shown to a job's code."""

    root: Path

    @property
    def spec(self) -> Path:
        """The `HostSpec` as it was ordered; it holds the store's keys."""
        return self.root / "host.json"

    @property
    def opt_ml(self) -> Path:
        """What the job sees as /opt/ml."""
        return self.root / "opt" / "ml"

    @property
    def home(self) -> Path:
        """The job's own writable home directory."""
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        """The job's /tmp: on disk, so that large temporary files cost no memory."""
        return self.root / "tmp"

    @property
    def layer(self) -> Path:
        """What the job installs over its image."""
        return self.root / "layer"

    @property
    def system_programs(self) -> Path:
        """What the job sees as /usr/sbin where that is not the machine's."""
        return self.root / "sbin"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints and TensorBoard logs whose place is outside /opt/ml, each below its own path."""
        return self.root / "checkpoints"

    @property
    def etc(self) -> Path:
        """Files made for the sandbox's /etc: hosts, passwd, group."""
        return self.root / "etc"

    @property
    def spool(self) -> Path:
        """Log lines, metrics, phases and the ending, until the server has them."""
        return self.root / "spool"

    @property
    def log(self) -> Path:
        """What the supervisor itself has to say."""
        return self.root / "supervisor.log"

    @property
    def input_data(self) -> Path:
        """One folder for each channel."""
        return self.opt_ml / "input" / "data"

    @property
    def model(self) -> Path:
        """Becomes model.tar.gz."""
        return self.opt_ml / "model"

    @property
    def models(self) -> Path:
        """The models of a multi-model container, which its sandbox shows below /opt/ml and lets nobody write."""
        return self.root / "models"

    @property
    def output_data(self) -> Path:
        """Becomes output.tar.gz."""
        return self.opt_ml / "output" / "data"

    def of_checkpoints(self, local_path: str) -> Path:
        """Where a folder of checkpoints or TensorBoard logs lies that the job sees as `local_path`."""
        path = PurePosixPath(local_path)
        if path.is_relative_to(OPT_ML):
            return self.opt_ml / path.relative_to(OPT_ML)
        return self.checkpoints / path.relative_to("/")

    def places_of(self, *synced: Checkpoint | None) -> dict[str, Path]:
        """Where such folders lie, by the paths at which the job sees them."""
        paths = {sync.local_path for sync in synced if sync is not None}
        return {path: self.of_checkpoints(path) for path in sorted(paths)}

    @property
    def failure(self) -> Path:
        """Where a script may say why it failed."""
        return self.opt_ml / "output" / "failure"

    @property
    def written_by_the_job(self) -> tuple[Path, ...]:
        """The folders that count against the job's disk limit; its log is among them while it lies here."""
        return (self.opt_ml, self.home, self.temporary, self.layer, self.checkpoints, self.spool)


def create(folder: HostFolder, spec: HostSpec, network_interface: str) -> None:
    """Make the tree and write the files of input/config.

    Arguments:
        folder: where the host lives; its root exists.
        spec: what was ordered.
        network_interface: the interface that the job will see, for `resourceconfig.json`.
    """
    config = folder.opt_ml / "input" / "config"
    for path in (config, folder.input_data, folder.model, folder.output_data, folder.opt_ml / "code"):
        path.mkdir(parents=True, exist_ok=True)
    for path in (folder.home, folder.temporary, folder.etc, folder.spool):
        path.mkdir(exist_ok=True)
    folder.temporary.chmod(0o1777)
    for channel in spec.channels:
        (folder.input_data / channel.name).mkdir(exist_ok=True)
    for synced in filter(None, (spec.checkpoint, spec.tensorboard)):
        folder.of_checkpoints(synced.local_path).mkdir(parents=True, exist_ok=True)
    files = {
        "hyperparameters.json": json.dumps(spec.hyperparameters),
        "inputdataconfig.json": json.dumps(input_data_config(spec)),
        "resourceconfig.json": json.dumps(resource_config(spec, network_interface)),
        **spec.config_files,
    }
    for name, text in files.items():
        (config / Path(name).name).write_text(text)


def input_data_config(spec: HostSpec) -> dict[str, dict[str, str]]:
    """The content of inputdataconfig.json; a content type stands there only when one was given."""
    return {
        channel.name: {
            **({"ContentType": channel.content_type} if channel.content_type else {}),
            "TrainingInputMode": channel.input_mode,
            "S3DistributionType": channel.distribution,
            "RecordWrapperType": channel.record_wrapper,
        }
        for channel in spec.channels
    }


def resource_config(spec: HostSpec, network_interface: str) -> dict[str, object]:
    """The content of resourceconfig.json, in the form of December 2025 (`topology` included)."""
    current = next(peer for peer in spec.peers if peer.name == spec.host)
    groups: dict[str, dict[str, object]] = {}
    members: dict[str, list[str]] = {}
    for peer in spec.peers:
        name = peer.instance_group or DEFAULT_GROUP
        members.setdefault(name, []).append(peer.name)
        groups[name] = {
            "instance_group_name": name,
            "instance_type": peer.instance_type,
            "hosts": sorted(members[name], key=host_rank),
        }
    return {
        "current_host": spec.host,
        "current_instance_type": current.instance_type,
        "current_group_name": current.instance_group or DEFAULT_GROUP,
        "hosts": sorted((peer.name for peer in spec.peers), key=host_rank),
        "instance_groups": list(groups.values()),
        "network_interface_name": network_interface,
        "topology": None,
    }


def host_rank(name: str) -> tuple[int, str]:
    """Sorts algo-2 before algo-10."""
    number = name.rpartition("-")[2]
    return (int(number) if number.isdigit() else 0, name)
