"""Wrong settings of a distribution, refused before anything starts: AWS's SDK checks few of them, its platform none."""

from __future__ import annotations

import shlex

from clary_toolkit.training.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from clary_toolkit.training.environment import TrainingEnvironment

_PROCESSES = "sagemaker_mpi_num_of_processes_per_host"
_OPTIONS = (
    "sagemaker_mpi_custom_mpi_options",
    "sagemaker_distributed_dataparallel_custom_mpi_options",
)
_EXCLUSIVE = {
    "sagemaker_parameter_server_enabled": "parameter_server",
    "sagemaker_multi_worker_mirrored_strategy_enabled": "multi_worker_mirrored_strategy",
    "sagemaker_mpi_enabled": "mpi",
    "sagemaker_distributed_dataparallel_enabled": "smdistributed.dataparallel",
}


def check(environment: TrainingEnvironment) -> None:
    """Raise ClientError for settings that cannot be meant, with the value and what was expected."""
    parameters = environment.framework_parameters
    asked = [name for switch, name in _EXCLUSIVE.items() if parameters.get(switch)]
    if len(asked) > 1:
        raise ClientError("`distribution` takes one way to distribute. Received: {}.".format(" and ".join(asked)))
    processes = parameters.get(_PROCESSES)
    if processes is not None and not (str(processes).isdigit() and int(str(processes)) > 0):
        raise ClientError(
            "processes_per_host of the distribution mpi must be a whole number above 0. Received: {!r}".format(
                processes
            )
        )
    for name in _OPTIONS:
        try:
            shlex.split(str(parameters.get(name) or ""))
        except ValueError as error:
            raise ClientError(
                "custom_mpi_options cannot be read: {}. Received: {!r}".format(error, parameters[name])
            ) from None
    unknown = [name for name in environment.distribution_groups if name not in environment.instance_groups]
    if unknown and environment.instance_groups:
        raise ClientError(
            "The distribution names instance groups that this job does not have: {}. Expected some of: {}.".format(
                ", ".join(unknown), ", ".join(sorted(environment.instance_groups))
            )
        )
