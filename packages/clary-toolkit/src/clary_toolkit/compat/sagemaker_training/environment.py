"""`Environment`: the job as a mapping with attributes, and the functions and paths beside it.

from sagemaker_training import environment

env = environment.Environment()
data = env.channel_input_dirs["train"]
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from clary_toolkit.training import hyperparameters as _hyperparameters
from clary_toolkit.training import machine as _machine
from clary_toolkit.training.environment import TrainingEnvironment, read_json
from clary_toolkit.training.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    _Base = Mapping[str, Any]
else:
    _Base = Mapping

_paths = Paths.of(os.environ)
base_dir = _paths.base
code_dir = _paths.code
model_dir = _paths.model
input_dir = _paths.input
input_config_dir = _paths.input_config
output_dir = _paths.output
output_data_dir = _paths.output_data
output_intermediate_dir = _paths.output_intermediate


class Environment(_Base):
    """A snapshot of the job: `env.hyperparameters`, `env["hosts"]`, `dict(env)`.

    What is not given is read from /opt/ml/input/config.
    """

    def __init__(
        self,
        resource_config: dict[str, Any] | None = None,
        input_data_config: dict[str, Any] | None = None,
        hyperparameters: dict[str, Any] | None = None,
    ) -> None:
        given = hyperparameters or read_hyperparameters()
        self._environment = TrainingEnvironment(
            _paths,
            os.environ,
            {key: json.dumps(value) for key, value in given.items()},
            resource_config or read_resource_config(),
            input_data_config or read_input_data_config(),
        )
        self._values = self._environment.as_mapping()
        os.environ.update(self._environment.platform_variables())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError("The training environment has no {!r}. It has: {}".format(name, ", ".join(self)))
        return self._values[name]

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __str__(self) -> str:
        return str(self._values)

    def sagemaker_s3_output(self) -> Any:
        """The address of the job's output, when the SDK sent one."""
        return self._environment.s3_output

    def to_cmd_args(self) -> list[str]:
        """The script's command-line arguments."""
        return self._environment.arguments()

    def to_env_vars(self) -> dict[str, str]:
        """The SM_* variables."""
        return self._environment.variables()


def read_hyperparameters() -> dict[str, Any]:
    """All hyperparameters, decoded, the SDK's own included."""
    return _hyperparameters.decode(read_json(_paths, "hyperparameters.json"))


def read_resource_config() -> dict[str, Any]:
    """The hosts of the job: resourceconfig.json."""
    return read_json(_paths, "resourceconfig.json")


def read_input_data_config() -> dict[str, Any]:
    """The channels of the job: inputdataconfig.json."""
    return read_json(_paths, "inputdataconfig.json")


def channel_path(channel: str) -> str:
    """The folder of a channel."""
    return os.path.join(_paths.input_data, channel)


def num_cpus() -> int:
    """Processors this job may use."""
    return _machine.count_cpus()


def num_gpus() -> int:
    """GPUs this job may use."""
    return _machine.count_gpus(os.environ)
