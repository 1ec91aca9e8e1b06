"""The cluster of a real Ray with several nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster_conformance import ClusterConformance, host_spec, is_running
from ray_machines import RayMachines, wait_for

from clary.cluster import choice
from clary.cluster.base import Placement, PlacesTaken, Resources
from clary.cluster.local import LocalCluster
from clary.cluster.ray import BesideServer, RayCluster, RayHandle, with_url_for_hosts
from clary.cluster.ray_actor import HostActor
from clary.host.serving_spec import ReplicaSpec, ServingContainer
from clary.host.spec import HostSpec, Peer
from clary.host.standby import Standby
from clary.settings import Settings

pytestmark = pytest.mark.slow

STAND_IN = [sys.executable, str(Path(__file__).parent / "stand_in_host.py")]
GIB = 1024**3
SMALL = Resources(cpus=0.25, memory_bytes=GIB // 4)


@pytest.fixture(scope="module")
def nodes(machines: RayMachines) -> Generator[list[Any]]:
    added = [machines.add(cpus=2, gpus=2), machines.add(cpus=1)]
    yield added
    for node in added:
        if node.any_processes_alive():
            machines.remove(node)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray-home")


@pytest.fixture(scope="module")
def ray(machines: RayMachines, nodes: list[Any], home: Path) -> Generator[RayCluster]:
    cluster = RayCluster(Settings(home=home, cluster=f"ray:{machines.address}"), STAND_IN, room_seconds=30)
    wait_for(lambda: len(cluster.nodes()) == len(nodes))
    yield cluster
    cluster.close()


class TestRayCluster(ClusterConformance):
    @pytest.fixture
    def cluster(self, ray: RayCluster) -> RayCluster:
        return ray

    @pytest.fixture
    def folder_of(self, home: Path) -> Callable[[str], Path]:
        return lambda host_id: home / "hosts" / host_id

    @pytest.fixture
    def starting_script(self, home: Path, machines: RayMachines) -> str:
        return f"""
import sys, time
from pathlib import Path
from clary.cluster.base import Resources
from clary.cluster.ray import RayCluster
from clary.host.spec import HostSpec
from clary.settings import Settings
cluster = RayCluster(Settings(home=Path({str(home)!r}), cluster="ray:{machines.address}"), {STAND_IN!r})
deadline = time.monotonic() + 30
while (place := cluster.place((Resources(cpus=0.25, memory_bytes=1),), ())) is None and time.monotonic() < deadline:
    time.sleep(0.05)
print(cluster.start(HostSpec.model_validate_json(sys.stdin.read()), place[0]))
cluster.close()
"""

    def test_hosts_of_a_job_start_together_or_not_at_all(
        self, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody else on the cluster has taken what Clary believes to be free."""
        first, second = cluster.nodes()
        whole = [Placement(node.name, Resources(node.total.cpus, GIB // 4)) for node in (first, second)]
        refused = pytest.raises(PlacesTaken, match=r"did not give the 2 place\(s\) of this job")
        with self.held(cluster, "others-1", whole[0]), refused, monkeypatch.context() as impatient:
            impatient.setattr(cluster, "_room_seconds", 0.5)
            cluster.start(of_two("together"), whole[1], (whole[1], whole[0]))
        handle = cluster.start(of_two("together"), whole[1], (whole[1], whole[0]))
        cluster.clean(handle)

    def test_a_host_that_is_cleaned_gives_its_place_back(self, cluster: RayCluster) -> None:
        node = cluster.nodes()[0]
        whole = Placement(node.name, Resources(node.total.cpus, GIB // 4))
        for number in range(2):
            with self.held(cluster, f"place-{number}", whole):
                pass

    @contextmanager
    def held(self, cluster: RayCluster, host_id: str, place: Placement) -> Generator[None]:
        handle = cluster.start(host_spec(host_id), place)
        try:
            yield
        finally:
            cluster.clean(handle)

    def test_a_host_gets_the_gpus_that_ray_gives_it(
        self, cluster: RayCluster, folder_of: Callable[[str], Path]
    ) -> None:
        places = cluster.place((Resources(0.25, GIB // 4, gpus=1), Resources(0.25, GIB // 4, gpus=0.5)), ())
        assert places is not None
        given: list[tuple[int, ...]] = []
        handles = [cluster.start(host_spec(f"gpu-{n}"), place) for n, place in enumerate(places, start=1)]
        for number, handle in enumerate(handles, start=1):
            order = HostSpec.model_validate_json((folder_of(f"gpu-{number}") / "host.json").read_bytes())
            given.append(order.limits.gpu_indices)
            cluster.clean(handle)
        assert sorted(given) == [(0,), (1,)]

    def test_a_host_ends_with_its_actor(self, cluster: RayCluster, home: Path) -> None:
        """By the real supervisor: what Ray has given up must not go on beside its successor."""
        real = RayCluster(Settings(home=home, cluster=cluster._settings.cluster))
        try:
            place = wait_for(lambda: real.place((SMALL,), ()))
            spec = host_spec("tied-1", job_name="tied")
            spec = spec.model_copy(update={"limits": spec.limits.model_copy(update={"max_runtime_seconds": 600})})
            handle = real.start(spec, place[0])
            supervisor = psutil.Process(json.loads(RayHandle.model_validate_json(handle).local)["pid"])
            assert supervisor.is_running()
            supervisor.parent().kill()  # type: ignore[union-attr]
            seen = wait_for(lambda: (state := real.state(handle)).status == "lost" and state)
            assert "its actor on the Ray node" in seen.detail
            psutil.wait_procs([supervisor], timeout=20)
            assert not is_running(supervisor.pid)
            real.clean(handle)
        finally:
            real.close()

    def test_a_host_is_running_as_far_as_is_known_while_ray_cannot_be_asked(self, cluster: RayCluster) -> None:
        with self.started(cluster, host_spec("asked-1")) as handle:
            _link().kill()
            assert cluster.state(handle).status == "running"
            wait_for(lambda: "cannot be reached" in cluster.problem())
            wait_for(lambda: "cannot be reached" not in cluster.problem())
            assert cluster.state(handle).status == "running"

    def test_hosts_that_were_started_before_the_server_knew_of_ray_are_still_its_own(
        self, cluster: RayCluster, home: Path
    ) -> None:
        local = LocalCluster(Settings(home=home), standby=Standby(os.environ, STAND_IN))
        with self.started(local, host_spec("before-1")) as handle:
            assert cluster.state(handle).status == "running"
            cluster.end(handle)
            assert cluster.state(handle).status == "lost"
        local.close()

    def test_hosts_on_ray_are_lost_to_a_server_without_it(self, cluster: RayCluster, home: Path) -> None:
        local = LocalCluster(Settings(home=home))
        with self.started(cluster, host_spec("after-1")) as handle:
            seen = local.state(handle)
            assert (seen.status, "was started on a Ray cluster" in seen.detail) == ("lost", True)
            assert local.unreported(handle) is None
            local.clean(handle)
            assert cluster.state(handle).status == "running"

    def test_replicas_of_endpoints_stay_beside_the_server(
        self, cluster: RayCluster, folder_of: Callable[[str], Path]
    ) -> None:
        beside = BesideServer(cluster)
        assert beside.nodes() == cluster.nodes()  # all of this Ray's are on this machine
        place = beside.place((Resources(cpus=0, memory_bytes=GIB // 4),), ())
        assert place is not None
        handle = beside.start(replica_spec("replica-1"), place[0])
        assert beside.state(handle).status == "running"
        beside.clean(handle)
        assert not folder_of("replica-1").exists()


def test_a_server_without_ray_loads_nothing_of_it() -> None:
    look = "import sys, clary.server.api, clary.server.front; print([n for n in sys.modules if 'ray' in n.split('.')])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_replicas_do_without_a_ray_that_is_elsewhere(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, cluster="ray:192.0.2.77:6379")
    clusters = choice.choose(settings)
    try:
        assert [node.name for node in clusters.endpoints.nodes()] == ["local"]
        assert clusters.jobs.nodes() == ()
    finally:
        clusters.jobs.close()


def test_a_node_without_this_clary_says_so(tmp_path: Path) -> None:
    actor = HostActor("99.0", str(tmp_path))
    answer = actor.start(host_spec("nowhere-1").model_dump_json())
    assert "has Clary 0.1.0, the server is 99.0" in answer["error"]
    assert "pip install 'clary[ray]==99.0'" in answer["error"]


@pytest.mark.parametrize(
    ("cluster", "host", "address", "url"),
    [
        ("ray", "127.0.0.1", None, "http://127.0.0.1:7700"),
        ("ray:127.0.0.1:6379", "0.0.0.0", "127.0.0.1:6379", "http://127.0.0.1:7700"),
        ("ray://10.0.0.1:10001", "10.0.0.2", "ray://10.0.0.1:10001", "http://10.0.0.2:7700"),
        ("ray:auto", "127.0.0.1", "auto", "http://127.0.0.1:7700"),
    ],
)
def test_the_address_of_ray_and_the_servers_own(
    tmp_path: Path, cluster: str, host: str, address: str | None, url: str
) -> None:
    settings = with_url_for_hosts(Settings(home=tmp_path, cluster=cluster, host=host, port=7700))
    assert (settings.ray_address, settings.url_for_hosts) == (address, url)


@pytest.mark.parametrize("cluster", ["ray:", "ray://", "slurm", "ray:here", "ray://a/b:1"])
def test_another_address_is_refused(tmp_path: Path, cluster: str) -> None:
    with pytest.raises(ValueError, match="cluster"):
        Settings(home=tmp_path, cluster=cluster)


def _link() -> psutil.Process:
    """The process that speaks with Ray for this one."""
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            if "clary.cluster.ray_link" in child.cmdline():
                return child
    raise AssertionError("there is no such process")


def of_two(job_name: str) -> HostSpec:
    """The first of two hosts."""
    peer = Peer(name="algo-1", instance_type="ml.m5.large", instance_group="homogeneousCluster")
    spec = host_spec(f"{job_name}-1", job_name=job_name)
    return spec.model_copy(update={"peers": (peer, peer.model_copy(update={"name": "algo-2"}))})


def replica_spec(host_id: str) -> ReplicaSpec:
    like = host_spec(host_id)
    return ReplicaSpec.model_validate(
        {
            **{name: getattr(like, name) for name in ("host_id", "limits", "store", "report_url", "images_home")},
            "report_token": like.report_token,
            "endpoint_name": "e",
            "endpoint_arn": "arn:aws:sagemaker:us-east-1:000000000000:endpoint/e",
            "variant": "v",
            "containers": (ServingContainer(image="python:3.12", environment={}),),
        }
    )
