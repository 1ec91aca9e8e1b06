"""The command line of mpirun, and the form of what the ranks print. Real ranks on two hosts: tests/e2e."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conformance_cases import config_of_hosts

from clary_toolkit.training import entry_point, mpi
from clary_toolkit.training.environment import TrainingEnvironment
from clary_toolkit.training.errors import ClientError
from clary_toolkit.training.paths import Paths
from clary_toolkit.training.runners import Launch

HOSTS = ("algo-1", "algo-2")


def launch_of(hosts: tuple[str, ...] = HOSTS, kind: str = entry_point.PROGRAM, **hyperparameters: object) -> Launch:
    asked = {"sagemaker_mpi_enabled": "true", **{name: json.dumps(value) for name, value in hyperparameters.items()}}
    environment = TrainingEnvironment(
        Paths(), {"TRAINING_JOB_NAME": "job"}, asked, config_of_hosts("algo-1", {"homogeneousCluster": hosts}), {}
    )
    command = ["/image/bin/python", "--", "train.py", "--epochs", "2"]
    return Launch(environment, kind, command, {"SM_HOSTS": "[]", "PATH": "/bin", "HOME": "/root"})


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_every_host_gets_the_processes_that_were_asked_for() -> None:
    command = mpi.mpirun_command(launch_of(sagemaker_mpi_num_of_processes_per_host=2))
    assert option(command, "--host") == "algo-1:2,algo-2:2"
    assert option(command, "-np") == "4"
    assert option(command, "btl_tcp_if_include") == "eth1"


def test_without_a_number_it_is_one_for_each_gpu_or_one() -> None:
    launch = launch_of()
    launch.environment.gpus = 0
    assert mpi.processes_per_host(launch.environment) == 1
    launch.environment.gpus = 4
    assert mpi.processes_per_host(launch.environment) == 4


def test_a_single_host_needs_no_agent() -> None:
    assert "plm_ssh_agent" not in mpi.mpirun_command(launch_of(("algo-1",)))
    assert option(mpi.mpirun_command(launch_of()), "plm_ssh_agent").startswith(sys.executable)


def test_ranks_get_the_jobs_variables_and_nothing_of_the_machine() -> None:
    command = mpi.mpirun_command(launch_of())
    exported = [command[index + 1] for index, word in enumerate(command) if word == "-x"]
    assert exported == ["PATH", "SM_HOSTS"]


def test_options_of_open_mpi_4_are_put_in_the_words_of_5() -> None:
    given = (
        '-verbose --NCCL_DEBUG=INFO -x HOROVOD_TIMELINE=/tmp/t -mca orte_base_help_aggregate 0 -bind-to core --x "a b"'
    )
    command = mpi.mpirun_command(launch_of(sagemaker_mpi_custom_mpi_options=given))
    start = command.index("--verbose")
    expected = [
        "--verbose",
        "-x",
        "HOROVOD_TIMELINE=/tmp/t",
        "-mca",
        "orte_base_help_aggregate",
        "0",
        "--bind-to",
        "core",
        "--x",
    ]
    assert command[start : start + len(expected) + 3] == [*expected, "a b", "-x", "NCCL_DEBUG=INFO"]


def test_mpi4py_ends_all_ranks_when_one_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    program = ["/python", "--", "train.py", "--a", "1"]
    assert mpi.under_mpi4py(program, entry_point.PROGRAM) == ["/python", "-m", "mpi4py", "train.py", "--a", "1"]
    assert mpi.under_mpi4py(["/python", "-m", "train"], entry_point.PACKAGE) == [
        "/python",
        "-m",
        "mpi4py",
        "-m",
        "train",
    ]
    assert mpi.under_mpi4py(["/bin/sh", "-c", "./train.sh"], entry_point.COMMAND) == ["/bin/sh", "-c", "./train.sh"]


def test_an_image_without_mpi4py_starts_the_script_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert mpi.under_mpi4py(["/python", "--", "train.py"], entry_point.PROGRAM) == ["/python", "--", "train.py"]


def test_lines_carry_rank_and_host_as_on_aws() -> None:
    rewrite = mpi.naming_hosts(["algo-1", "algo-2"], 2)
    said = b"[1,3]<stdout>: loss=1.5\n[1,0]<stderr>: warning\nplain [1,0]<stdout>: inside\n"
    assert rewrite(said) == (
        b"[1,mpirank:3,algo-2]<stdout>:loss=1.5\n[1,mpirank:0,algo-1]<stderr>:warning\nplain [1,0]<stdout>: inside\n"
    )


def test_several_hosts_need_the_jobs_secret() -> None:
    with pytest.raises(ClientError, match="CLARY_LAUNCH_TOKEN"):
        mpi.run(launch_of(), lambda *_: None)


def test_an_image_without_mpirun_says_so(tmp_path: Path) -> None:
    launch = launch_of(("algo-1",))
    launch.variables = {"PATH": str(tmp_path)}
    with pytest.raises(ClientError, match="no mpirun"):
        mpi.run(launch, lambda *_: None)


def test_the_data_parallel_library_finds_its_variables() -> None:
    launch = launch_of(sagemaker_distributed_dataparallel_enabled=True, sagemaker_instance_type="ml.p3.16xlarge")
    assert {"SMDATAPARALLEL_USE_HOMOGENEOUS", "SAGEMAKER_INSTANCE_TYPE"} <= set(mpi.mpirun_command(launch))
