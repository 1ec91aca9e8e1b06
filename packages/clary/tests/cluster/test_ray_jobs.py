"""Training jobs on a real Ray of several nodes: a real server, its store, supervisors and scripts, through boto3."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
import ray_machines
from ray_machines import RayMachines, wait_for

sys.path.insert(0, str(Path(__file__).parents[1]))
from clary.cluster.ray import RayCluster
from clary.settings import Settings
from seen_jobs import Jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ENTRYPOINT = (
    "import json, base64; exec(base64.b64decode(json.load(open('/opt/ml/input/config/hyperparameters.json'))['code']))"
)
WAIT = "import time\nprint('begun', flush=True)\ntime.sleep(100)"
MEET = """
import json, os, socket, time
me = json.load(open("/opt/ml/input/config/resourceconfig.json"))
host = me["current_host"]
port = int(os.environ["FIRST_PORT"]) + (host == "algo-2")
other = ("algo-2", port + 1) if host == "algo-1" else ("algo-1", port - 1)
listener = socket.create_server(("", port))
for attempt in range(100):
    try:
        found = socket.create_connection(other, timeout=5).getpeername()[0]
        break
    except OSError:
        time.sleep(0.1)
peer, _ = listener.accept()
print(host, "found", found, open("/opt/ml/input/data/train/words").read(), os.environ.get("CLARY_PORTS"), flush=True)
open("/opt/ml/model/" + host, "w").write("x")
"""


class Server(Jobs):
    """A server on the machines' Ray that may be killed and started again, and jobs that are Python programs."""

    patience = 60.0

    def __init__(self, home: Path, machines: RayMachines) -> None:
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.settings = Settings(home=home, port=self.port, host="0.0.0.0", cluster=f"ray:{machines.address}")
        self.start()
        keys = json.loads((home / "credentials.json").read_text())
        self.client = lambda service: boto3.client(
            service,
            endpoint_url=self.settings.url,
            region_name="us-east-1",
            aws_access_key_id=keys["access_key"],
            aws_secret_access_key=keys["secret_key"],
        )
        self.sagemaker, self.s3, self.logs = self.client("sagemaker"), self.client("s3"), self.client("logs")
        self.s3.create_bucket(Bucket="results")
        self.s3.put_object(Bucket="results", Key="data/words", Body=b"hello")

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CLARY_HOME": str(self.home),
            "CLARY_PORT": str(self.port),
            "CLARY_HOST": "0.0.0.0",
            "CLARY_CLUSTER": self.settings.cluster,
        }

    def start(self) -> None:
        with (self.home / "test-server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clary.server"], env=self.environment, stdout=log, stderr=log
            )
        wait_for(self._healthy)

    def kill(self) -> None:
        """kill -9 of the whole server, whose processes end with their parent."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.settings.url}/_clary/health", timeout=2) as answer:
                return json.load(answer)["status"] == "ready"
        except OSError:
            return False

    def clary(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "clary.cli", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, check=True, text=True).stdout

    def status(self) -> dict[str, Any]:
        return json.loads(self.clary("status", "--json"))["cluster"]

    def create(self, name: str, code: str, *, count: int = 1, **members: Any) -> str:
        source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://results/data/"}}
        request = {
            "TrainingJobName": name,
            "AlgorithmSpecification": {
                "TrainingImage": "python:3.11",
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["python", "-c", ENTRYPOINT],
            },
            "HyperParameters": {"code": base64.b64encode(code.encode()).decode()},
            "InputDataConfig": [{"ChannelName": "train", "DataSource": source}],
            "RoleArn": "arn:aws:iam::000000000000:role/ClaryExecutionRole",
            "OutputDataConfig": {"S3OutputPath": "s3://results/out"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": count, "VolumeSizeInGB": 5},
            "StoppingCondition": {"MaxRuntimeInSeconds": 300},
        }
        self.sagemaker.create_training_job(**{**request, **members})
        return name

    def stop(self, name: str) -> None:
        self.sagemaker.stop_training_job(TrainingJobName=name)
        assert self.ended(name)["TrainingJobStatus"] == "Stopped"

    def node_of(self, name: str) -> str | None:
        """The Ray node that a job's host is on."""
        return next((node["id"] for node in self.status()["nodes"] if name in node["hosts"]), None)


@pytest.fixture(scope="module")
def nodes(machines: RayMachines) -> Generator[dict[str, Any]]:
    """Two nodes of one processor each, by their ids; tests may remove some and add others."""
    added = [machines.add(), machines.add()]
    by_id = {node.node_id: node for node in added}
    yield by_id
    for node in by_id.values():
        machines.remove(node)


@pytest.fixture(scope="module")
def server(machines: RayMachines, nodes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    home = tmp_path_factory.mktemp("ray-jobs")
    _with_images(home)
    server = Server(home, machines)
    wait_for(lambda: len(server.status()["nodes"]) == len(nodes))
    yield server
    server.process.terminate()
    server.process.wait(60)


def test_hosts_on_two_nodes_find_each_other_and_their_results_come_together(server: Server) -> None:
    job = server.ended(server.create("meet", MEET, count=2, Environment={"FIRST_PORT": str(_two_free_ports())}))
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    said = [line.split() for line in server.messages("meet") if "found" in line]
    assert sorted(words[0] for words in said) == ["algo-1", "algo-2"]
    assert [words[3] for words in said] == ["hello", "hello"]
    assert server.model_files(job) == ["algo-1", "algo-2"]
    wait_for(lambda: not list((server.home / "hosts").glob("meet-*")))


def test_what_does_not_fit_waits_in_the_queue_and_a_stop_makes_room(server: Server) -> None:
    server.create("before", WAIT, count=2)
    wait_for(lambda: server.messages("before").count("begun") == 2)
    server.create("after", "print('my turn')")
    wait_for(lambda: server.describe("after")["SecondaryStatus"] == "Pending")
    status = server.status()
    assert status["queue"] == ["after"]
    assert [(node["cpus_taken"], node["hosts"]) for node in status["nodes"]] == [(1, ["before"])] * 2
    shown = server.clary("status")
    assert "queue      after" in shown
    assert "1 of 1 CPUs" in shown
    server.stop("before")
    assert server.ended("after")["TrainingJobStatus"] == "Completed"


def test_a_job_goes_on_while_the_server_is_killed_and_started_again(server: Server) -> None:
    code = (
        "import os, time\nprint('begun', flush=True)\nend = time.time() + 6\nwhile time.time() < end: time.sleep(0.1)"
    )
    server.create("outlives", code + "\nprint('done')\nopen('/opt/ml/model/m', 'w').write('x')")
    wait_for(lambda: server.messages("outlives") == ["begun"])
    server.kill()
    server.start()
    job = server.ended("outlives")
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert server.messages("outlives") == ["begun", "done"]
    assert [transition["Status"] for transition in job["SecondaryStatusTransitions"]].count("Starting") == 1


def test_the_job_of_a_node_that_is_lost_is_retried_on_another(
    server: Server, machines: RayMachines, nodes: dict[str, Any]
) -> None:
    code = (
        "import time\nprint('begun', flush=True)\n"
        "while open('/opt/ml/input/data/train/words').read() == 'wait': time.sleep(0.1)\n"
        "print('done')"
    )
    server.s3.put_object(Bucket="results", Key="data/words", Body=b"wait")
    server.create("retried", code, RetryStrategy={"MaximumRetryAttempts": 1})
    wait_for(lambda: "begun" in server.messages("retried"))
    lost = server.node_of("retried")
    assert lost is not None
    server.s3.put_object(Bucket="results", Key="data/words", Body=b"hello")  # for the second attempt
    machines.remove(nodes.pop(lost))
    job = server.ended("retried")
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert "Restarting" in [transition["Status"] for transition in job["SecondaryStatusTransitions"]]
    assert server.messages("retried") == ["begun", "begun", "done"]
    wait_for(lambda: [node["id"] for node in server.status()["nodes"]] == list(nodes))


def test_the_job_of_a_node_that_is_lost_fails_and_says_so(
    server: Server, machines: RayMachines, nodes: dict[str, Any]
) -> None:
    server.create("lost", WAIT)
    wait_for(lambda: "begun" in server.messages("lost"))
    node = server.node_of("lost")
    assert node is not None
    machines.remove(nodes.pop(node))
    job = server.ended("lost")
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("InternalServerError: ")
    # Whichever Ray notices first, the end of the node or of what ran there.
    told = job["FailureReason"]
    assert f"({node[:8]}) left the cluster" in told or "its actor on the Ray node" in told
    wait_for(lambda: not _processes_of("lost-1-"))


@pytest.mark.skipif(bool(ray_machines.cannot_have_another_machine()), reason=ray_machines.cannot_have_another_machine())
def test_hosts_on_two_machines_find_each_other_and_the_server(
    server: Server, machines: RayMachines, nodes: dict[str, Any], tmp_path: Path
) -> None:
    """The other machine has a network and a home of its own: nothing of its host comes by way of files or loopback."""
    if not nodes:
        added = machines.add()
        nodes[added.node_id] = added
    while len(nodes) > 1:
        machines.remove(nodes.popitem()[1])
    _with_images(tmp_path)
    with machines.elsewhere(tmp_path) as address:
        wait_for(lambda: sorted(node["id"] in nodes for node in server.status()["nodes"]) == [False, True])
        job = server.ended(server.create("apart", MEET, count=2, Environment={"FIRST_PORT": str(_two_free_ports())}))
        assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
        said = [line.split() for line in server.messages("apart") if "found" in line]
        assert address in [words[2] for words in said]
        assert [words[3:] for words in said] == [["hello", "shared"]] * 2
        assert server.model_files(job) == ["algo-1", "algo-2"]
        alone = server.ended(server.create("alone", MEET, count=2, EnableNetworkIsolation=True))
        assert "EnableNetworkIsolation cannot be had" in alone["FailureReason"]
        wait_for(lambda: not list((tmp_path / "hosts").iterdir()))
        on_loopback = RayCluster(Settings(home=tmp_path, cluster=server.settings.cluster))
        try:
            wait_for(on_loopback.ray_nodes)
            assert len(on_loopback.nodes()) == 1
            assert "1 node(s) of the Ray cluster are not used" in on_loopback.problem()
        finally:
            on_loopback.close()


def _with_images(home: Path) -> None:
    """The images that all tests share, in a home folder of the test's own."""
    images = Path(os.environ.get("CLARY_TEST_IMAGES_HOME", Path.home() / ".cache" / "clary-test-images"))
    images.mkdir(parents=True, exist_ok=True)
    (home / "images").symlink_to(images)


def _two_free_ports() -> int:
    """A port that is free with the one after it."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("", port + 1))
            except OSError:
                continue
            return port


def _processes_of(host_id: str) -> list[int]:
    """The processes of hosts whose id begins so."""
    found: list[int] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CLARY_HOST_ID", "").startswith(host_id):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
