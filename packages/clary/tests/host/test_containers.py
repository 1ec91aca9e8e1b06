"""Images of the user's own: a training job and a replica in a container that podman (or docker) makes."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clary.host import containers, network, processes
from clary.host.serving_spec import ModelSource, ReplicaSpec, ServingContainer
from clary.host.spec import HostReport, Limits, Peer
from clary.storage.access import StoreAccess

sys.path.insert(0, str(Path(__file__).parents[1]))
import own_image

MakeHost = Callable[..., "Host"]  # noqa: F821 (of conftest, which tests do not import)
SUPERVISOR = Path(__file__).with_name("run_replica.py")


@pytest.fixture
def make_job(make_host: MakeHost, tmp_path: Path) -> Callable[..., Any]:
    """Makes a host of a training job in the user's image; `act` says what the image does."""

    def make(act: str = "", **changes: Any) -> Any:
        job = {"image": own_image.own_image(), "arguments": (), "hyperparameters": {"act": act}}
        return make_host(**job | {"images_home": str(own_image.HOME)} | changes)

    return make


def test_a_container_trains_in_an_opt_ml_of_its_own(make_job: Callable[..., Any], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "name").write_text("digits")
    host = make_job(
        channels=({"name": "training", "s3_uri": f"file://{data}", "content_type": "text/csv"},),
        metric_definitions=({"name": "loss", "regex": "loss=([0-9.]+);"},),
    )
    ending = host.run()
    said = host.server.messages
    assert ending.cause == "Completed", (ending, said, host.log)
    assert ending.exit_code == 0
    assert said[0].startswith("This is the image localhost/clary-test-own:")
    assert said[1:3] == ["argument /bin/own", "argument train"]
    assert json.loads(said[3].removeprefix("hyperparameters ")) == {"act": ""}
    assert json.loads(said[4].removeprefix("channels "))["training"]["ContentType"] == "text/csv"
    assert json.loads(said[5].removeprefix("resources "))["current_host"] == "algo-1"
    assert said[6:] == ["job job", "own variable image", "clary HTTP/1.1 200 OK", "loss=0.25;"]
    results = tmp_path / "results-job"
    assert (results / "model" / "name").read_text() == "digits"
    assert (results / "output" / "report").read_text() == "all is well"
    assert [point["value"] for point in host.server.metrics if point["name"] == "loss"] == [0.25]
    assert not own_image.containers_of(host.spec.host_id)
    assert not host.leftovers()


def test_entrypoint_and_arguments_replace_the_image_s(make_job: Callable[..., Any]) -> None:
    host = make_job(entrypoint=("/bin/own", "train"), arguments=("--fast", "two words"))
    assert host.run().cause == "Completed", host.server.messages
    given = [line for line in host.server.messages if line.startswith("argument ")]
    assert given == ["argument /bin/own", "argument train", "argument --fast", "argument two words"]


def test_arguments_alone_follow_the_image_s_entrypoint(make_job: Callable[..., Any]) -> None:
    host = make_job(arguments=("only", "these"))
    assert host.run().cause == "Completed", host.server.messages
    given = [line for line in host.server.messages if line.startswith("argument ")]
    assert given == ["argument /bin/own", "argument only", "argument these"]


def test_a_request_s_variables_win_over_the_image_s_and_are_no_secret_on_the_command_line(
    make_job: Callable[..., Any],
) -> None:
    host = make_job("wait", environment={"OWN": "a request's\nsecond line", "PATH": "/nowhere", "LD_PRELOAD": "/x.so"})
    host.start()
    host.server.wait_for_line("waiting")
    assert "own variable a request's" in host.server.messages
    assert "second line" in host.server.messages
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "a request's" not in lines
    host.server.wanted = "stop"
    assert host.server.wait_for_ending().cause == "Stopped"


def test_an_image_with_a_user_of_its_own_may_write_its_results(make_job: Callable[..., Any], tmp_path: Path) -> None:
    host = make_job(image=own_image.somebodys_image())
    assert host.run().cause == "Completed", host.server.messages
    assert (tmp_path / "results-job" / "model" / "name").read_text() == "nobody"


def test_what_the_image_has_in_opt_ml_code_stays_there(make_job: Callable[..., Any], tmp_path: Path) -> None:
    host = make_job("code", image=own_image.image_with_code())
    assert host.run().cause == "Completed", host.server.messages
    assert "code of the image" in host.server.messages
    assert (tmp_path / "results-job" / "model" / "name").read_text() == "nobody"


def test_a_failure_is_told_with_its_exit_code_and_its_file(make_job: Callable[..., Any]) -> None:
    ending = make_job("fail").run()
    assert (ending.cause, ending.exit_code, ending.failure_text) == ("ScriptFailed", 3, "the data has no labels")


def test_a_stopped_job_is_told_and_keeps_what_it_saved_then(make_job: Callable[..., Any], tmp_path: Path) -> None:
    host = make_job("wait").start()
    host.server.wait_for_line("waiting")
    host.server.wanted = "stop"
    ending = host.server.wait_for_ending()
    assert (ending.cause, ending.exit_code) == ("Stopped", 0)
    assert host.server.messages[-1] == "told to end"
    assert (tmp_path / "results-job" / "model" / "name").read_text() == "unfinished"


def test_a_job_that_ignores_the_stop_order_is_killed_after_its_grace(make_job: Callable[..., Any]) -> None:
    host = make_job("deaf", limits={"stop_grace_seconds": 1}).start()
    host.server.wait_for_line("waiting")
    host.server.wanted = "stop"
    ending = host.server.wait_for_ending()
    assert (ending.cause, ending.signal) == ("Stopped", "SIGKILL")
    assert host.process.wait(10) == 0
    assert not own_image.containers_of(host.spec.host_id)


def test_a_job_that_takes_too_much_memory_is_out_of_memory(make_job: Callable[..., Any]) -> None:
    ending = make_job("grow", limits={"memory_bytes": 64 * 2**20}).run()
    assert (ending.cause, ending.exit_code) == ("OutOfMemory", 137)


def test_a_supervisor_that_is_killed_leaves_no_container(make_job: Callable[..., Any]) -> None:
    host = make_job("wait").start()
    host.server.wait_for_line("waiting")
    assert own_image.containers_of(host.spec.host_id)
    host.process.send_signal(signal.SIGKILL)
    _until(lambda: not own_image.containers_of(host.spec.host_id))


def test_the_end_of_a_host_removes_a_container_that_has_lost_its_guard_too(make_job: Callable[..., Any]) -> None:
    host = make_job("deaf").start()
    host.server.wait_for_line("waiting")
    guards = [pid for pid in processes.children(host.process.pid) if b"clary-guard" in _command_line(pid)]
    for pid in [*guards, host.process.pid]:
        os.kill(pid, signal.SIGKILL)
    assert own_image.containers_of(host.spec.host_id)
    containers.remove_all(host.folder, host.spec.host_id)
    assert not own_image.containers_of(host.spec.host_id)


def test_a_command_that_the_image_does_not_have_is_the_user_s_mistake(make_job: Callable[..., Any]) -> None:
    ending = make_job(entrypoint=("/bin/bash",), arguments=("-c", "true")).run()
    assert ending.cause == "ClientError"
    assert "/bin/bash" in ending.message
    assert "no such file" in ending.message


def test_an_image_that_is_not_in_the_store_says_how_to_put_it_there(make_job: Callable[..., Any]) -> None:
    own_image.engine()
    ending = make_job(image="000000000000.dkr.ecr.us-east-1.amazonaws.com/not-there:1").run()
    assert ending.cause == "ClientError"
    assert f"{own_image.engine().name} build -t not-there:1 ." in ending.message


def test_without_network_nothing_is_reached(make_job: Callable[..., Any]) -> None:
    host = make_job(network_isolation=True)
    assert host.run().cause == "Completed"
    assert "clary unreachable" in host.server.messages


@pytest.mark.skipif(bool(network.unavailable()), reason="needs root and the program ip (iproute2)")
def test_several_hosts_in_the_user_s_image_reach_each_other_by_name(
    make_job: Callable[..., Any], servers: list[Any]
) -> None:
    if not own_image.engine().joins_networks:
        pytest.skip("needs podman run by root")
    peers = [
        Peer(name=name, instance_type="ml.m5.large", instance_group="homogeneousCluster")
        for name in ("algo-1", "algo-2")
    ]
    hosts = [
        make_job(
            "meet",
            host=peer.name,
            peers=peers,
            server=server,
            environment={"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"},
        ).start()
        for peer, server in zip(peers, servers, strict=True)
    ]
    for server in servers:
        server.merge = True
    endings = [server.wait_for_ending() for server in servers]
    assert [ending.cause for ending in endings] == ["Completed", "Completed"], hosts[0].log
    assert "met algo-2" in servers[0].messages
    assert "clary HTTP/1.1 200 OK" in servers[0].messages


class Replica:
    """One replica of the user's image under test."""

    def __init__(self, folder: Path, spec: ReplicaSpec, server: Any) -> None:
        self.folder, self.spec, self.server = folder, spec, server
        self.address: str | None = None
        receive = server.receive

        def note(report: HostReport) -> dict[str, object]:
            self.address = report.address
            return receive(report)

        server.receive = note
        (folder / "host.json").write_text(spec.model_dump_json())
        with (folder / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SUPERVISOR), str(folder)],
                env=os.environ | {"CLARY_HOST_ID": spec.host_id, "TEST_STOP_SECONDS": "1.5"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self, times: int = 1) -> str:
        self.server.wait(lambda: self.server.phases.count("Ready") >= times and self.address is not None)
        assert self.address is not None
        return self.address

    def ask(self, body: bytes) -> bytes:
        assert self.address is not None
        connection = http.client.HTTPConnection("localhost" if self.address.startswith("/") else self.address)
        if self.address.startswith("/"):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(self.address)
        connection.request("POST", "/invocations", body)
        answer = connection.getresponse().read()
        connection.close()
        return answer

    def first_processes(self) -> list[int]:
        """The program's own processes, as this machine counts them."""
        return [pid for pid in processes.of_host(self.spec.host_id) if b"/bin/own" in _command_line(pid)]


@pytest.fixture
def make_replica(tmp_path: Path, server: Any) -> Iterator[Callable[..., Replica]]:
    replicas: list[Replica] = []

    def make(environment: dict[str, str] | None = None, **changes: Any) -> Replica:
        archive = tmp_path / "model.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            member = tarfile.TarInfo("name")
            member.size = 6
            tar.addfile(member, io.BytesIO(b"digits"))
        folder = tmp_path / "host"
        folder.mkdir()
        host_id = f"replica-{os.getpid()}-{tmp_path.name}".replace("_", "-").lower()
        container = ServingContainer(
            image=changes.pop("image", None) or own_image.own_image(),
            environment={"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}", **(environment or {})},
            model=ModelSource(s3_uri=f"file://{archive}"),
        )
        names = changes.pop("in_series", ())
        bounds = {"cpus": 2, "memory_bytes": 256 * 2**20, "max_runtime_seconds": 1}
        order: dict[str, Any] = {
            "host_id": host_id,
            "endpoint_name": "digits",
            "endpoint_arn": "arn:aws:sagemaker:us-east-1:000000000000:endpoint/digits",
            "variant": "AllTraffic",
            "containers": tuple(container.model_copy(update={"hostname": name}) for name in names) or (container,),
            "limits": Limits(**bounds | changes.pop("limits", {})),
            "store": StoreAccess(endpoint="http://127.0.0.1:1", access_key="k", secret_key="s", region="us-east-1"),
            "report_url": f"http://127.0.0.1:{server.port}/_clary/hosts/{host_id}/report",
            "report_token": "token",
            "images_home": str(own_image.HOME),
        }
        replicas.append(Replica(folder, ReplicaSpec.model_validate(order | changes), server))
        return replicas[-1]

    yield make
    for replica in replicas:
        if replica.process.poll() is None:
            replica.process.kill()
            replica.process.wait()
        containers.remove_all(replica.folder, replica.spec.host_id)
        processes.kill_host(replica.spec.host_id)


def test_a_replica_serves_on_port_8080_and_drains_when_it_is_stopped(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica({"OWN": "request"})
    assert replica.wait_until_ready().startswith("127.0.0.1:")
    assert replica.ask(b"1") == b"digits 1"
    assert replica.ask(b"env OWN") == b"request"
    assert replica.ask(b"clary") == b"HTTP/1.1 200 OK"
    assert replica.ask(b"write /opt/ml/model/x") == b"refused"
    assert replica.ask(b"write /tmp/x") == b"written"
    answers: list[bytes] = []
    asking = threading.Thread(target=lambda: answers.append(replica.ask(b"slow")))
    asking.start()
    replica.server.wanted = "stop"
    ending = replica.server.wait_for_ending()
    asking.join()
    assert answers == [b"digits slow"]
    assert ending.cause == "Stopped"
    assert replica.process.wait(10) == 0
    assert replica.server.messages[1:] == ["serves on port 8080", "told to end"]
    assert {point["name"] for point in replica.server.metrics} >= {"CPUUtilization", "MemoryUtilization"}
    memory = [point["value"] for point in replica.server.metrics if point["name"] == "MemoryUtilization"]
    assert max(memory) > 0
    assert not own_image.containers_of(replica.spec.host_id)


def test_a_container_that_is_killed_is_started_again(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica()
    replica.wait_until_ready()
    (first,) = replica.first_processes()
    os.kill(first, signal.SIGKILL)
    replica.wait_until_ready(times=2)
    assert replica.ask(b"2") == b"digits 2"
    assert "The server exited with code 137 (SIGKILL); it is started again." in replica.server.messages
    assert len(own_image.containers_of(replica.spec.host_id)) == 1


def test_a_program_that_exits_before_its_ping_fails_with_its_code_and_words(
    make_replica: Callable[..., Replica],
) -> None:
    ending = make_replica({"FAILS_TO_LOAD": "1"}).server.wait_for_ending()
    assert (ending.cause, ending.exit_code) == ("ScriptFailed", 5)
    assert "did not pass the ping health check" in ending.message
    assert ending.last_lines[-1] == "this is no model"


def test_a_program_that_never_answers_its_ping_fails_in_time(make_replica: Callable[..., Replica]) -> None:
    ending = make_replica({"NEVER_WELL": "1"}, startup_seconds=1).server.wait_for_ending()
    assert ending.cause == "ScriptFailed"
    assert "Its ping was answered with status 500, 1 seconds after its start" in ending.message


def test_a_server_that_ignores_sigterm_is_killed(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica({"DEAF": "1"})
    replica.wait_until_ready()
    replica.server.wanted = "stop"
    ending = replica.server.wait_for_ending()
    assert ending.cause == "Stopped"
    assert not own_image.containers_of(replica.spec.host_id)


def test_a_server_that_grows_past_its_memory_is_started_again(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica(limits={"memory_bytes": 64 * 2**20})
    replica.wait_until_ready()
    with contextlib.suppress(OSError, http.client.HTTPException):
        replica.ask(b"grow")
    again = re.compile("memory.*it is started again")
    replica.server.wait(lambda: any(again.search(line) for line in replica.server.messages))
    replica.wait_until_ready(times=2)


def test_without_network_a_server_is_reached_and_reaches_nothing(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica(network_isolation=True)
    assert replica.wait_until_ready().startswith("/")
    assert replica.ask(b"3") == b"digits 3"
    assert replica.ask(b"clary") == b"unreachable"
    assert replica.ask(b"internet") == b"unreachable"


def test_containers_in_series_all_listen_on_the_same_port(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica(in_series=("first", "second"))
    replica.wait_until_ready()
    assert replica.ask(b"4") == b"digits digits 4"
    assert "[second] serves on port 8080" in replica.server.messages


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
