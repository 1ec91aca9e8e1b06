"""The jobs of `test_distribution` on a Ray cluster: each of a job's two hosts is on a node of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import test_distribution as jobs
import test_sdk_v3_distribution as jobs_v3

if TYPE_CHECKING:
    from conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

JOBS = (
    jobs.test_mpi_starts_its_ranks_on_every_host,
    jobs.test_a_rank_that_raises_ends_the_job_and_is_named,
    jobs.test_a_job_on_a_parameter_server_strategy_ends_with_its_chiefs_script,
    jobs.test_a_mirrored_custom_loop_keeps_the_hosts_equal,
    jobs.test_a_model_parallel_script_trains_over_two_hosts,
)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__.removeprefix("test_"))
def test_on_two_nodes(job: Callable[..., Any], server_on_ray: Server, sdk_v2: Path) -> None:
    job(server_on_ray, sdk_v2)


def test_the_drivers_of_sdk_v3_on_two_nodes(server_on_ray: Server, sdk_v3: Path) -> None:
    jobs_v3.test_the_sdks_mpi_driver_starts_ranks_on_both_hosts(server_on_ray, sdk_v3)
