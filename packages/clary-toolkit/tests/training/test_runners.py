"""Which runner a job gets: one process, a distribution, or a clear refusal."""

from __future__ import annotations

import pytest
from conformance_cases import config_of_hosts

from clary_toolkit.training import runners
from clary_toolkit.training.environment import DISTRIBUTION_SWITCHES, TrainingEnvironment
from clary_toolkit.training.errors import ClientError
from clary_toolkit.training.paths import Paths

TWO_GROUPS = {"data": ("algo-1",), "train": ("algo-2", "algo-3")}


def environment_of(hyperparameters: dict[str, str], current: str = "algo-2") -> TrainingEnvironment:
    return TrainingEnvironment(Paths(), {}, hyperparameters, config_of_hosts(current, TWO_GROUPS), {})


STARTED = (
    "sagemaker_parameter_server_enabled",
    "sagemaker_multi_worker_mirrored_strategy_enabled",
    "sagemaker_mpi_enabled",
    "sagemaker_distributed_dataparallel_enabled",
)


@pytest.mark.parametrize("switch", STARTED)
def test_these_distributions_are_started(switch: str) -> None:
    assert runners.select(environment_of({switch: "true"})) is not runners.run_process


@pytest.mark.parametrize("switch", [switch for switch in DISTRIBUTION_SWITCHES if switch not in STARTED])
def test_a_distribution_that_cannot_be_started_is_refused_by_its_hyperparameter(switch: str) -> None:
    with pytest.raises(ClientError, match=f"{switch}=True"):
        runners.select(environment_of({switch: "true"}))


@pytest.mark.parametrize("switch", DISTRIBUTION_SWITCHES)
def test_a_distribution_that_is_off_is_none(switch: str) -> None:
    assert runners.select(environment_of({switch: "false"})) is runners.run_process


def test_hosts_outside_the_distributions_groups_run_one_process() -> None:
    asked = {"sagemaker_mpi_enabled": "true", "sagemaker_distribution_instance_groups": '["train"]'}
    assert runners.select(environment_of(asked, "algo-1")) is runners.run_process
    assert runners.select(environment_of(asked, "algo-2")) is not runners.run_process


def test_parameter_servers_on_a_single_host_are_none() -> None:
    single = config_of_hosts("algo-1", {"homogeneousCluster": ("algo-1",)})
    environment = TrainingEnvironment(Paths(), {}, {"sagemaker_parameter_server_enabled": "true"}, single, {})
    assert runners.select(environment) is runners.run_process
