"""How the script is started once its code is in place: as one process, or in a distribution.

A runner is a function that takes a `Launch`, returns when the script has ended well and raises ExecuteUserScriptError
when it has not. `select` chooses one by the framework parameters of the job. A further distribution is a further
runner in `_DISTRIBUTED`.
"""

from __future__ import annotations

from clary_toolkit.training import distribution_settings, entry_point, process
from clary_toolkit.training.errors import ClientError, ExecuteUserScriptError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clary_toolkit.training.environment import TrainingEnvironment
    from clary_toolkit.training.failure import Reason

    Runner = Callable[["Launch"], None]
    Explain = Callable[[bytes, str], Reason]


class Launch:
    """A script that is ready to start.

    `command` is its command line for a single process; `variables` its whole environment; `folder` where it runs.
    """

    def __init__(
        self,
        environment: TrainingEnvironment,
        kind: str,
        command: list[str],
        variables: Mapping[str, str],
    ) -> None:
        self.environment = environment
        self.kind = kind
        self.command = command
        self.variables = variables
        self.folder = environment.paths.code

    def with_variables(self, variables: Mapping[str, str]) -> Launch:
        """The same launch with more variables."""
        return Launch(self.environment, self.kind, self.command, {**self.variables, **variables})

    def with_command(self, command: list[str], variables: Mapping[str, str]) -> Launch:
        """Another command line in place of the script's, with more variables."""
        return Launch(self.environment, self.kind, command, {**self.variables, **variables})


def select(environment: TrainingEnvironment) -> Runner:
    """The runner that the job asks for.

    Raises ClientError for a distribution that there is no runner for: without it the script would train wrongly, each
    host on its own.
    """
    if environment.instance_group not in environment.distribution_groups:
        return run_process
    for switch, name in _SWITCHES.items():
        value = environment.framework_parameters.get(switch)
        if not value:
            continue
        if switch == "sagemaker_parameter_server_enabled" and len(environment.hosts) == 1:
            continue  # AWS starts no parameter server on a single host either
        distribution_settings.check(environment)
        runner = _DISTRIBUTED.get(switch)
        if runner is None:
            raise ClientError(
                "This job asks for distributed training by {} (hyperparameter {}={}), which this version of Clary "
                "cannot start yet. Remove `distribution` from the estimator to train on each host by "
                "itself.".format(name, switch, value)
            )
        return runner
    return run_process


def run_process(launch: Launch, explain: Explain | None = None) -> None:
    """One process on this host. `explain` gives the reason of a failure, by the end of what was printed."""
    outcome = process.run(launch.command, launch.folder, launch.variables, launch.kind == entry_point.COMMAND)
    if outcome.exit_code == 0:
        return
    from clary_toolkit.training import failure

    reason = (explain or failure.explain)(outcome.tail, launch.folder)
    raise ExecuteUserScriptError(
        launch.command, outcome.exit_code, reason.message, _extra(outcome.exit_code), reason.title
    )


def _run_with_parameter_servers(launch: Launch) -> None:
    from clary_toolkit.training import tensorflow_cluster

    tensorflow_cluster.run_with_parameter_servers(launch, run_process)


def _run_mirrored(launch: Launch) -> None:
    from clary_toolkit.training import tensorflow_cluster

    tensorflow_cluster.run_mirrored(launch, run_process)


def _run_mpi(launch: Launch) -> None:
    from clary_toolkit.training import mpi

    mpi.run(launch, run_process)


def _extra(exit_code: int) -> str | None:
    if exit_code == 137:  # a shell's word for it, and AWS's text
        return "OutOfMemory: Process killed by SIGKILL (signal 9)"
    if exit_code >= 0:
        return None
    return "Process killed by {}".format(process.signal_text(-exit_code))


_SWITCHES = {
    "sagemaker_parameter_server_enabled": "parameter servers",
    "sagemaker_multi_worker_mirrored_strategy_enabled": "MultiWorkerMirroredStrategy",
    "sagemaker_mpi_enabled": "MPI",
    "sagemaker_distributed_dataparallel_enabled": "SageMaker's data parallel library",
    "sagemaker_pytorch_ddp_enabled": "PyTorch DDP",
    "sagemaker_torch_distributed_enabled": "torchrun",
    "sagemaker_pytorch_xla_multi_worker_enabled": "PyTorch XLA",
}
_DISTRIBUTED: dict[str, Runner] = {
    "sagemaker_parameter_server_enabled": _run_with_parameter_servers,
    "sagemaker_multi_worker_mirrored_strategy_enabled": _run_mirrored,
    "sagemaker_mpi_enabled": _run_mpi,
    "sagemaker_distributed_dataparallel_enabled": _run_mpi,
}
