"""The contract of `clary.cluster.base.Cluster` as tests. Every implementation's test class inherits it.

A subclass provides the fixtures `cluster`, whose hosts run stand_in_host.py, and `folder_of`, which finds a host's
folder on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from clary.cluster.base import Cluster, Placement, Resources
from clary.host.spec import HostSpec, Limits, Output, Peer
from clary.storage.access import StoreAccess

GIB = 1024**3
T = TypeVar("T")


def host_spec(host_id: str, job_name: str = "waits") -> HostSpec:
    """The least that a host can be told."""
    return HostSpec(
        host_id=host_id,
        job_name=job_name,
        job_arn=f"arn:aws:sagemaker:us-east-1:000000000000:training-job/{job_name}",
        host="algo-1",
        peers=(Peer(name="algo-1", instance_type="ml.m5.large", instance_group="homogeneousCluster"),),
        image="python:3.12",
        environment={},
        hyperparameters={},
        limits=Limits(cpus=1, memory_bytes=GIB, max_runtime_seconds=60),
        output=Output(model_uri="s3://b/model.tar.gz", output_uri=None, staging_uri="s3://b/staging/"),
        store=StoreAccess(endpoint="http://127.0.0.1:1", access_key="a", secret_key="s", region="us-east-1"),
        report_url="http://127.0.0.1:1/",
        report_token="t",
        images_home="/nonexistent",
    )


def wait_for(look: Callable[[], T], seconds: float = 20) -> T:
    """What `look` returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "the condition did not come about in time"
        time.sleep(0.01)
    return found


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class ClusterConformance:
    """What every cluster must do."""

    @contextmanager
    def started(self, cluster: Cluster, spec: HostSpec) -> Generator[str]:
        place = cluster.place((Resources(cpus=0.25, memory_bytes=GIB // 4),), ())
        assert place is not None
        handle = cluster.start(spec, place[0])
        try:
            yield handle
        finally:
            cluster.clean(handle)

    def family(self, folder: Path) -> list[int]:
        return wait_for(
            lambda: json.loads((folder / "family.json").read_text()) if (folder / "family.json").exists() else []
        )

    def test_a_placement_is_all_or_nothing(self, cluster: Cluster) -> None:
        whole = cluster.nodes()[0].total
        assert cluster.place((whole,), ()) is not None
        nodes = len(cluster.nodes())
        assert cluster.place((whole,) * (nodes + 1), ()) is None

    def test_placing_takes_nothing_by_itself(self, cluster: Cluster) -> None:
        whole = cluster.nodes()[0].total
        assert cluster.place((whole,), ()) == cluster.place((whole,), ())

    def test_what_is_taken_is_not_given_again(self, cluster: Cluster) -> None:
        taken = tuple(Placement(node=node.name, resources=node.total) for node in cluster.nodes())
        assert cluster.place((Resources(cpus=0.25, memory_bytes=1),), taken) is None

    def test_what_machines_that_are_gone_held_does_not_matter(self, cluster: Cluster) -> None:
        whole = cluster.nodes()[0].total
        assert cluster.place((whole,), (Placement(node="a machine that is gone", resources=whole),)) is not None

    def test_more_than_there_is_fits_nowhere(self, cluster: Cluster) -> None:
        whole = cluster.nodes()[0].total
        assert cluster.place((replace(whole, memory_bytes=whole.memory_bytes + 1),), ()) is None

    def test_a_host_runs_until_it_is_ended_and_nothing_of_it_stays(
        self, cluster: Cluster, folder_of: Callable[[str], Path]
    ) -> None:
        with self.started(cluster, host_spec("runs-1")) as handle:
            family = self.family(folder_of("runs-1"))
            assert cluster.state(handle).status == "running"
            cluster.end(handle)
            assert [pid for pid in family if is_running(pid)] == []
            assert cluster.state(handle).status == "lost"
            cluster.end(handle)
        assert not folder_of("runs-1").exists()

    def test_a_second_start_finds_the_first(self, cluster: Cluster, folder_of: Callable[[str], Path]) -> None:
        with self.started(cluster, host_spec("twice-1")) as handle:
            family = self.family(folder_of("twice-1"))
            place = cluster.place((Resources(cpus=0.25, memory_bytes=1),), ())
            assert place is not None
            with ThreadPoolExecutor(4) as pool:
                again = list(pool.map(lambda _: cluster.start(host_spec("twice-1"), place[0]), range(4)))
            assert set(again) == {handle}
            assert self.family(folder_of("twice-1")) == family

    def test_end_finds_what_a_dead_supervisor_left(self, cluster: Cluster, folder_of: Callable[[str], Path]) -> None:
        with self.started(cluster, host_spec("left-1")) as handle:
            family = self.family(folder_of("left-1"))
            os.kill(family[0], 9)
            wait_for(lambda: cluster.state(handle).status == "lost")
            cluster.end(handle)
            assert [pid for pid in family if is_running(pid)] == []

    def test_a_host_that_ended_by_itself_has_exited(self, cluster: Cluster) -> None:
        with self.started(cluster, host_spec("well-1", job_name="ends-well")) as handle:
            wait_for(lambda: cluster.state(handle).status != "running")
            assert cluster.state(handle).status == "exited"

    def test_a_host_that_broke_is_lost_and_says_why(self, cluster: Cluster) -> None:
        with self.started(cluster, host_spec("broke-1", job_name="fails")) as handle:
            wait_for(lambda: cluster.state(handle).status != "running")
            state = cluster.state(handle)
            assert state.status == "lost"
            assert "code 3" in state.detail
            assert "RuntimeError: the stand-in was told to fail" in state.detail

    def test_other_hosts_live_on_when_one_is_ended(self, cluster: Cluster, folder_of: Callable[[str], Path]) -> None:
        with (
            self.started(cluster, host_spec("other-1")) as first,
            self.started(cluster, host_spec("other-2")) as second,
        ):
            self.family(folder_of("other-1"))
            family = self.family(folder_of("other-2"))
            cluster.clean(first)
            assert cluster.state(second).status == "running"
            assert all(is_running(pid) for pid in family)

    def test_a_host_outlives_the_process_that_started_it(
        self, cluster: Cluster, folder_of: Callable[[str], Path], starting_script: str
    ) -> None:
        """`starting_script`: a Python program that starts the host of the JSON spec on its stdin, prints the handle."""
        spec = host_spec("outlives-1").model_dump_json()
        process = subprocess.run(
            [sys.executable, "-c", starting_script], input=spec, capture_output=True, text=True, check=True, timeout=60
        )
        handle = process.stdout.strip()
        try:
            family = self.family(folder_of("outlives-1"))
            assert cluster.state(handle).status == "running"
            cluster.end(handle)
            assert [pid for pid in family if is_running(pid)] == []
        finally:
            cluster.clean(handle)
