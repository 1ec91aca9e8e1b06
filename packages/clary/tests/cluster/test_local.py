"""The cluster of this machine."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import psutil
import pytest
from cluster_conformance import ClusterConformance, host_spec, is_running

from clary.cluster.base import Cluster, Resources
from clary.cluster.local import LocalCluster
from clary.host import gpus
from clary.host.spec import HostSpec
from clary.host.standby import Standby
from clary.settings import Settings

STAND_IN = (sys.executable, str(Path(__file__).parent / "stand_in_host.py"))
TOTAL = Resources(cpus=2, memory_bytes=4 * 1024**3)


class TestLocalCluster(ClusterConformance):
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture(params=["ready", "cold"])
    def cluster(self, home: Path, request: pytest.FixtureRequest) -> Generator[LocalCluster]:
        cluster = LocalCluster(Settings(home=home), standby=Standby(os.environ, STAND_IN), total=TOTAL)
        if request.param == "ready":
            cluster.prepare()
        yield cluster
        cluster.close()

    @pytest.fixture
    def folder_of(self, home: Path) -> Callable[[str], Path]:
        return lambda host_id: home / "hosts" / host_id

    @pytest.fixture
    def starting_script(self, home: Path) -> str:
        return f"""
import os, sys
from pathlib import Path
from clary.cluster.base import Resources
from clary.cluster.local import LocalCluster
from clary.host.spec import HostSpec
from clary.host.standby import Standby
from clary.settings import Settings
cluster = LocalCluster(Settings(home=Path({str(home)!r})), standby=Standby(os.environ, {STAND_IN!r}))
place = cluster.place((Resources(cpus=0.25, memory_bytes=1),), ())
print(cluster.start(HostSpec.model_validate_json(sys.stdin.read()), place[0]))
"""

    def test_only_the_owner_reads_a_hosts_folder(self, cluster: Cluster, home: Path) -> None:
        with self.started(cluster, host_spec("private-1")):
            folder = home / "hosts" / "private-1"
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE((folder / "host.json").stat().st_mode) == 0o600

    def test_one_that_was_chosen_and_never_told_to_begin_is_replaced(
        self, cluster: Cluster, folder_of: Callable[[str], Path]
    ) -> None:
        """As when the server is killed between recording the process and giving it its host."""
        folder = folder_of("chosen-1")
        folder.mkdir(parents=True)
        gone = {"host_id": "chosen-1", "folder": str(folder), "pid": 2**22, "started": "boot:1"}
        (folder / "supervisor.json").write_text(json.dumps(gone))
        with self.started(cluster, host_spec("chosen-1")) as handle:
            assert is_running(self.family(folder)[0])
            assert cluster.state(handle).status == "running"


def test_a_supervisor_does_not_inherit_the_servers_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARY_S3_SECRET_KEY", "of the server")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the person")
    cluster = LocalCluster(Settings(home=tmp_path), total=TOTAL)
    cluster.prepare()
    try:
        (waiting,) = [child for child in psutil.Process().children() if "clary.host" in _command(child)]
        assert not [name for name in waiting.environ() if "SECRET" in name]
    finally:
        cluster.close()


def test_the_machine_is_measured(tmp_path: Path) -> None:
    (node,) = LocalCluster(Settings(home=tmp_path)).nodes()
    assert 1 <= node.total.cpus <= (os.cpu_count() or 1)
    assert node.total.memory_bytes > 2**28


def test_a_host_is_told_the_numbers_of_the_gpus_that_the_server_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = tmp_path / "dev"
    devices.mkdir()
    for number in range(3):
        (devices / f"nvidia{number}").touch()
    monkeypatch.setattr(gpus, "_CARDS", tmp_path / "none")
    monkeypatch.setattr(gpus, "_DEVICES", devices)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    cluster = LocalCluster(Settings(home=tmp_path), standby=Standby(os.environ, STAND_IN))
    (node,) = cluster.nodes()
    assert node.total.gpus == 2
    places = cluster.place((Resources(cpus=0.25, memory_bytes=1, gpus=1),), ())
    assert places is not None
    for index, number in ((0, 2), (1, 1)):
        spec = host_spec(f"gpu-{index}")
        limits = spec.limits.model_copy(update={"gpu_indices": (index,)})
        handle = cluster.start(spec.model_copy(update={"limits": limits}), places[0])
        try:
            told = HostSpec.model_validate_json((tmp_path / "hosts" / f"gpu-{index}" / "host.json").read_bytes())
            assert told.limits.gpu_indices == (number,)
        finally:
            cluster.clean(handle)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []
