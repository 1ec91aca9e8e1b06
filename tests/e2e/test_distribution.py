"""TensorFlow's own distributions on two hosts of one job, as the SDK's `distribution` argument asks for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_an_estimator_trains_on_parameter_servers(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_distribution.py", "parameter_server", "1.14", "py3", "parameter_servers.py")
    # The master counts as a worker.
    assert "task master/0 of 2 parameter servers, 2 workers, chief True" in said
    assert "task worker/0 of 2 parameter servers, 2 workers, chief False" in said
    assert int(re.search(r"global step (\d+)", said)[1]) >= 300  # type: ignore[index]
    assert "Waiting for the master at algo-1:" in said
    assert re.search(r"model s3://.+/output/model.tar.gz", said)


def test_a_mirrored_custom_loop_keeps_the_hosts_equal(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_distribution.py", "multi_worker_mirrored_strategy", "2.19", "py312", "mirrored.py")
    assert said.count("replicas 2") == 2
    assert {"rank 0 loss fell True", "rank 1 loss fell True"} <= set(re.findall(r"rank \d loss fell \w+", said))
    weights = dict(re.findall(r"rank (\d) weights ([0-9.]+)", said))
    assert weights["0"] == weights["1"]


def test_mpi_starts_its_ranks_on_every_host(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_mpi.py", "")
    for rank, host in enumerate(("algo-1", "algo-1", "algo-2", "algo-2")):
        assert f"[1,mpirank:{rank},{host}]<stdout>:rank={rank} of=4 total=10.0 host={host}" in said
    assert "STATUS Completed [10.0]" in said


def test_a_rank_that_raises_ends_the_job_and_is_named(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_mpi.py", "yes")
    assert "STATUS Failed" in said
    reason = said.split("REASON", 1)[1]
    assert "On rank 3 on algo-2" in reason
    assert "ValueError: this rank is broken" in reason
