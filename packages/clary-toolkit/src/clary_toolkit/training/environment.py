"""The training environment: what the job was asked to do and where it runs, and the SM_* variables that say so."""

from __future__ import annotations

import json
import os

from clary_toolkit.training import hyperparameters, log, machine
from clary_toolkit.training.errors import ClientError
from clary_toolkit.training.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Parameters that start the script on several processes or hosts. Which groups of hosts take part is settled by the
# first of these that is on, in any container.
DISTRIBUTION_SWITCHES = (
    "sagemaker_mpi_enabled",
    "sagemaker_parameter_server_enabled",
    "sagemaker_distributed_dataparallel_enabled",
    "sagemaker_pytorch_ddp_enabled",
    "sagemaker_pytorch_xla_multi_worker_enabled",
    "sagemaker_multi_worker_mirrored_strategy_enabled",
    "sagemaker_torch_distributed_enabled",
)
_HOMOGENEOUS = "homogeneousCluster"


class TrainingEnvironment:
    """One job as one host sees it: read from /opt/ml/input/config and the process environment, then left alone.

    `hyperparameters` are the user's, decoded; `framework_parameters` those for a framework (`sagemaker_mpi_enabled`).
    """

    def __init__(
        self,
        paths: Paths,
        environ: Mapping[str, str],
        raw_hyperparameters: Mapping[str, object],
        resource_config: dict[str, Any],
        input_data_config: dict[str, Any],
    ) -> None:
        self.paths = paths
        decoded = hyperparameters.decode(raw_hyperparameters)
        self.hyperparameters, own, self.framework_parameters = hyperparameters.split(decoded)
        self.is_tuning = "_tuning_objective_metric" in decoded
        self.resource_config = resource_config
        self.input_data_config = input_data_config

        self.hosts: list[str] = list(resource_config["hosts"])
        self.current_host: str = resource_config["current_host"]
        self.instance_type: str = resource_config.get("current_instance_type", "local")
        self.instance_group: str = resource_config.get("current_group_name", _HOMOGENEOUS)
        self.network_interface: str = resource_config.get("network_interface_name", "eth0")
        self.topology: object = resource_config.get("topology", [])
        groups: list[dict[str, Any]] = resource_config.get("instance_groups") or []
        self.instance_groups = {str(group["instance_group_name"]): group for group in groups}
        self.distribution_groups = self._distribution_groups()
        self.distribution_hosts = self._distribution_hosts()

        program = environ.get("SAGEMAKER_PROGRAM") or own.get("sagemaker_program")
        self.entry_point = "" if program is None else str(program)
        self.code_uri = str(own.get("sagemaker_submit_directory", paths.code))
        self.log_level = own.get("sagemaker_container_log_level", log.INFO)
        self.s3_output = own.get("sagemaker_s3_output")
        self.framework_module = environ.get("SAGEMAKER_TRAINING_MODULE")
        self.job_name = environ.get("TRAINING_JOB_NAME")
        self.sagemaker_job_name = str(own.get("sagemaker_job_name", ""))
        region = own.get("sagemaker_region") or environ.get("AWS_DEFAULT_REGION") or environ.get("AWS_REGION")
        self.region = str(region or "")
        self.model_parallel = environ.get("SM_HP_MP_PARAMETERS")

        self.cpus = machine.count_cpus()
        self.gpus = machine.count_gpus(environ)
        self.neurons = machine.count_neurons(environ, self.instance_type)

    @classmethod
    def read(cls, paths: Paths, environ: Mapping[str, str]) -> TrainingEnvironment:
        """Read the job's files. Raises ClientError naming a file that is missing or broken."""
        resource_config = read_json(paths, "resourceconfig.json")
        if "hosts" not in resource_config or "current_host" not in resource_config:
            raise ClientError(
                "{} must name `hosts` and `current_host`. Received: {}".format(
                    os.path.join(paths.input_config, "resourceconfig.json"), json.dumps(resource_config)
                )
            )
        return cls(
            paths,
            environ,
            read_json(paths, "hyperparameters.json"),
            resource_config,
            read_json(paths, "inputdataconfig.json"),
        )

    def arguments(self) -> list[str]:
        """The script's command-line arguments."""
        return hyperparameters.to_arguments(self.hyperparameters)

    def platform_variables(self) -> dict[str, str]:
        """The variables without the SM_ prefix that AWS's toolkit also leaves in the script's environment."""
        return {
            "SAGEMAKER_JOB_NAME": self.sagemaker_job_name,
            "CURRENT_HOST": self.current_host,
            "SAGEMAKER_REGION": self.region,
        }

    def variables(self) -> dict[str, str]:
        """The SM_* variables of the script."""
        paths = self.paths
        values: dict[str, object] = {
            "hosts": self.hosts,
            "network_interface_name": self.network_interface,
            "hps": self.hyperparameters,
            "user_entry_point": self.entry_point,
            "framework_params": self.framework_parameters,
            "resource_config": self.resource_config,
            "input_data_config": self.input_data_config,
            "output_data_dir": paths.output_data,
            "channels": sorted(self.input_data_config),
            "current_host": self.current_host,
            "current_instance_type": self.instance_type,
            "current_instance_group": self.instance_group,
            "current_instance_group_hosts": self._group_hosts(),
            "instance_groups": list(self.instance_groups),
            "instance_groups_dict": self.instance_groups,
            "distribution_instance_groups": self.distribution_groups,
            "is_hetero": len(self.instance_groups) > 1,
            "module_name": self.module_name,
            "log_level": self.log_level,
            "framework_module": self.framework_module,
            "input_dir": paths.input,
            "input_config_dir": paths.input_config,
            "output_dir": paths.output,
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "num_neurons": self.neurons,
            "model_dir": paths.model,
            "module_dir": self.code_uri,
            "training_env": self.as_mapping(),
            "user_args": self.arguments(),
            "output_intermediate_dir": paths.output_intermediate,
        }
        if self.topology:
            values["topology"] = self.topology
        for name, folder in self._channel_folders().items():
            values["channel_" + name] = folder
        for key, value in self.hyperparameters.items():
            values["hp_" + key] = value
        return {"SM_" + key.upper(): hyperparameters.to_variable(value) for key, value in values.items()}

    def as_mapping(self) -> dict[str, object]:
        """The whole environment under the names of AWS's `Environment`: the content of SM_TRAINING_ENV."""
        paths = self.paths
        parallel = self.model_parallel
        return {
            "additional_framework_parameters": self.framework_parameters,
            "channel_input_dirs": self._channel_folders(),
            "current_host": self.current_host,
            "current_instance_group": self.instance_group,
            "current_instance_group_hosts": self._group_hosts(),
            "current_instance_type": self.instance_type,
            "distribution_hosts": self.distribution_hosts,
            "distribution_instance_groups": self.distribution_groups,
            "framework_module": self.framework_module,
            "hosts": self.hosts,
            "hyperparameters": self.hyperparameters,
            "input_config_dir": paths.input_config,
            "input_data_config": self.input_data_config,
            "input_dir": paths.input,
            "instance_groups": list(self.instance_groups),
            "instance_groups_dict": self.instance_groups,
            "is_hetero": len(self.instance_groups) > 1,
            "is_master": self.current_host == self.master_host,
            "is_modelparallel_enabled": parallel and parallel != "{}",
            "is_smddpmprun_installed": False,
            "is_smddprun_installed": False,
            "job_name": self.job_name,
            "log_level": self.log_level,
            "master_hostname": self.master_host,
            "model_dir": paths.model,
            "module_dir": self.code_uri,
            "module_name": self.module_name,
            "network_interface_name": self.network_interface,
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "num_neurons": self.neurons,
            "output_data_dir": paths.output_data,
            "output_dir": paths.output,
            "output_intermediate_dir": paths.output_intermediate,
            "resource_config": self.resource_config,
            "topology": self.topology,
            "user_entry_point": self.entry_point or None,
        }

    @property
    def module_name(self) -> str:
        """The entry point without .py."""
        name = self.entry_point or "None"  # AWS's word for none at all
        return name[:-3] if name.endswith(".py") else name

    @property
    def master_host(self) -> str:
        """The first host of the distribution, or of the job."""
        return (self.distribution_hosts or self.hosts)[0]

    def _channel_folders(self) -> dict[str, str]:
        return {name: os.path.join(self.paths.input_data, name) for name in self.input_data_config}

    def _group_hosts(self) -> list[str]:
        return self.instance_groups.get(self.instance_group, {}).get("hosts", [])

    def _distribution_groups(self) -> list[str]:
        asked: Any = self.framework_parameters.get("sagemaker_distribution_instance_groups")
        if asked is not None:
            return asked
        enabled = any(self.framework_parameters.get(switch) for switch in DISTRIBUTION_SWITCHES)
        return [self.instance_group] if enabled else []

    def _distribution_hosts(self) -> list[str]:
        if not self.instance_groups:
            return list(self.hosts)
        taking_part = [group for name, group in self.instance_groups.items() if name in self.distribution_groups]
        return [host for group in taking_part for host in group["hosts"]]


def read_json(paths: Paths, name: str) -> dict[str, Any]:
    """A file of input/config. Raises ClientError naming it when it is missing or broken."""
    path = os.path.join(paths.input_config, name)
    try:
        with open(path, encoding="utf-8") as file:
            content: object = json.load(file)
    except FileNotFoundError:
        raise ClientError(
            "{} is missing: this is not the folder of a training job. Set SAGEMAKER_BASE_DIR when it lies elsewhere "
            "than in /opt/ml.".format(path)
        ) from None
    except ValueError as error:
        raise ClientError("{} is not JSON: {}".format(path, error)) from None
    if not isinstance(content, dict):
        raise ClientError("{} must hold a JSON object. Received: {}".format(path, json.dumps(content)[:200]))
    return content
