"""Settings of a distribution that cannot be meant are refused with their value, before anything starts."""

from __future__ import annotations

import json

import pytest
from conformance_cases import config_of_hosts

from clary_toolkit.training.environment import TrainingEnvironment
from clary_toolkit.training.errors import ClientError
from clary_toolkit.training.paths import Paths
from clary_toolkit.training.runners import select


def refused(**hyperparameters: object) -> str:
    asked = {name: json.dumps(value) for name, value in hyperparameters.items()}
    config = config_of_hosts("algo-1", {"workers": ("algo-1", "algo-2")})
    with pytest.raises(ClientError) as caught:
        select(TrainingEnvironment(Paths(), {"TRAINING_JOB_NAME": "job"}, asked, config, {}))
    return str(caught.value)


@pytest.mark.parametrize("count", [0, -1, 1.5, "two"])
def test_processes_per_host_is_a_whole_number_above_0(count: object) -> None:
    said = refused(sagemaker_mpi_enabled=True, sagemaker_mpi_num_of_processes_per_host=count)
    assert "must be a whole number above 0" in said
    assert repr(count) in said


def test_options_of_mpirun_must_be_words() -> None:
    said = refused(sagemaker_mpi_enabled=True, sagemaker_mpi_custom_mpi_options='-x "A=1')
    assert "custom_mpi_options cannot be read: No closing quotation" in said


def test_a_job_is_distributed_in_one_way() -> None:
    said = refused(sagemaker_mpi_enabled=True, sagemaker_parameter_server_enabled=True)
    assert "Received: parameter_server and mpi." in said


def test_instance_groups_must_be_the_jobs_own() -> None:
    said = refused(sagemaker_mpi_enabled=True, sagemaker_distribution_instance_groups=["workers", "servers"])
    assert "that this job does not have: servers. Expected some of: workers." in said
