"""TensorFlow's own distributions on two hosts of one job, as the SDK's `distribution` argument asks for them."""

from __future__ import annotations

import json
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


def test_a_job_on_a_parameter_server_strategy_ends_with_its_chiefs_script(server: Server, sdk_v2: Path) -> None:
    # The other host's script serves as a worker, in a call that never returns.
    said = server.run(sdk_v2, "v2_distribution.py", "parameter_server", "2.19", "py312", "coordinator.py")
    assert "variable on /job:ps/" in said
    first, last = re.search(r"loss fell from ([0-9.]+) to ([0-9.]+)", said).groups()  # type: ignore[union-attr]
    assert float(last) < 0.1 * float(first)
    assert "The script of the job's first host has ended: so does this one" in said
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


def test_a_horovod_script_trains_on_an_image_that_has_no_horovod(server: Server, sdk_v2: Path) -> None:
    said = server.run(sdk_v2, "v2_horovod.py")
    ranks = dict(re.findall(r"rank (\d of 2) (weights [0-9.]+ loss [0-9.]+)", said))
    assert set(ranks) == {"0 of 2", "1 of 2"}
    assert ranks["0 of 2"] == ranks["1 of 2"]
    assert re.search(r"model s3://.+/output/model.tar.gz", said)


def test_a_model_parallel_script_trains_over_two_hosts(server: Server, sdk_v2: Path) -> None:
    # Spread: the two parts of each model are on different hosts, and its replicas beside one another.
    parameters = {"partitions": 2, "microbatches": 4, "placement_strategy": "spread", "horovod": True}
    said = server.run(sdk_v2, "v2_modelparallel.py", json.dumps(parameters))
    line = r"mpirank:\d,(algo-\d)\]<stdout>:rank (\d) mp (\d) dp (\d) holds (\d) weights ([0-9.]+) saved ckpt-1"
    held = re.findall(line, said)
    assert sorted((rank, mp, dp, host) for host, rank, mp, dp, _, _ in held) == [
        ("0", "0", "0", "algo-1"),
        ("1", "0", "1", "algo-1"),
        ("2", "1", "0", "algo-2"),
        ("3", "1", "1", "algo-2"),
    ]
    assert len({weights for *_, weights in held}) == 1
    parts = {mp: int(count) for _, _, mp, _, count, _ in held}
    assert parts["0"] + parts["1"] == 6
    status, accuracy = re.search(r"STATUS (\w+) \[([0-9.]+)", said).groups()  # type: ignore[union-attr]
    assert status == "Completed"
    assert float(accuracy) > 0.9
    kept = re.findall(r"'([^']+)'", re.search(r"CHECKPOINTS (.*)", said)[1])  # type: ignore[index]
    assert {"checkpoint", "ckpt-1.index"} <= set(kept)
    # Values that other ranks hold are written file by file; a checkpoint's files say how many they are.
    files = sorted(name for name in kept if name.startswith("ckpt-1.data-"))
    assert files
    assert files == [f"ckpt-1.data-{number:05}-of-{len(files):05}" for number in range(len(files))]
    assert re.search(r"model s3://.+/output/model.tar.gz", said)
