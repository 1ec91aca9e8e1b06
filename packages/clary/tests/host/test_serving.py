"""The flow of one replica: it serves until it is stopped, whatever its server does."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clary.host import limits, processes
from clary.host.serving_spec import ModelSource, ReplicaSpec, ServingContainer, read_spec
from clary.host.spec import HostReport, Limits
from clary.storage.access import StoreAccess

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap (the program bwrap)")

SUPERVISOR = Path(__file__).with_name("run_replica.py")
SCRIPT = Path(__file__).with_name("serve_script.py")


class Replica:
    """One replica under test."""

    def __init__(self, folder: Path, spec: ReplicaSpec, server: Any) -> None:
        self.folder, self.spec, self.server = folder, spec, server
        self.messages: list[tuple[str, str]] = []
        self.address: str | None = None
        receive = server.receive

        def note(report: HostReport) -> dict[str, object]:
            self.messages = [(change.phase.value, change.message) for change in report.phases]
            self.address = report.address
            return receive(report)

        server.receive = note
        (folder / "host.json").write_text(spec.model_dump_json())
        with (folder / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SUPERVISOR), str(folder)],
                env=os.environ | {"CLARY_HOST_ID": spec.host_id},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self, times: int = 1) -> str:
        self.server.wait(lambda: self.server.phases.count("Ready") >= times and self.address is not None)
        assert self.address is not None
        return self.address

    def ask(self, body: bytes, **headers: str) -> bytes:
        assert self.address is not None
        connection = http.client.HTTPConnection("localhost")
        if self.address.startswith("/"):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(self.address)
        else:
            connection = http.client.HTTPConnection(self.address)
        connection.request(
            "POST", "/invocations", body, {name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse().read()
        connection.close()
        return answer

    def serving_processes(self) -> list[int]:
        return [
            pid
            for pid in processes.of_host(self.spec.host_id)
            if pid != self.process.pid and b"serve.py" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1]
        ]

    def serving_process(self) -> int:
        for pid in self.serving_processes():
            return pid
        raise AssertionError("no server runs")


@pytest.fixture
def make_replica(tmp_path: Path, server: Any, image_root: Path) -> Iterator[Callable[..., Replica]]:
    replicas: list[Replica] = []

    def make(environment: dict[str, str] | None = None, **changes: Any) -> Replica:
        archive = tmp_path / "model.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name, content in {"name": b"digits", "code/serve.py": SCRIPT.read_bytes()}.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        folder = tmp_path / "host"
        folder.mkdir()
        host_id = f"replica-{os.getpid()}-{tmp_path.name}".replace("_", "-")
        container = ServingContainer(
            image=str(image_root),
            environment=environment or {},
            model=changes.pop("model", ModelSource(s3_uri=f"file://{archive}")),
        )
        in_series = changes.pop("in_series", {})
        containers = tuple(
            container.model_copy(update={"hostname": name, "environment": own}) for name, own in in_series.items()
        )
        order: dict[str, Any] = {
            "host_id": host_id,
            "endpoint_name": "digits",
            "endpoint_arn": "arn:aws:sagemaker:us-east-1:000000000000:endpoint/digits",
            "variant": "AllTraffic",
            "containers": containers or (container,),
            "limits": Limits(cpus=2, memory_bytes=512 * 2**20, max_runtime_seconds=1),
            "store": StoreAccess(endpoint="http://127.0.0.1:1", access_key="k", secret_key="s", region="us-east-1"),
            "report_url": f"http://127.0.0.1:{server.port}/_clary/hosts/{host_id}/report",
            "report_token": "token",
            "images_home": str(tmp_path),
        }
        replicas.append(Replica(folder, ReplicaSpec.model_validate(order | changes), server))
        return replicas[-1]

    yield make
    for replica in replicas:
        if replica.process.poll() is None:
            replica.process.kill()
            replica.process.wait()
        processes.kill_host(replica.spec.host_id)
        limits.remove(replica.spec.host_id)


def test_an_order_is_read_back_as_what_it_is(make_replica: Callable[..., Replica]) -> None:
    spec = make_replica().spec
    assert read_spec(spec.model_dump_json()) == spec


def test_a_replica_serves_its_model_and_drains_when_it_is_stopped(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica(notices=("A line of the platform.",))
    replica.wait_until_ready()
    assert replica.ask(b"1") == b"digits 1"
    answers: list[bytes] = []
    asking = threading.Thread(target=lambda: answers.append(replica.ask(b"slow")))
    asking.start()
    replica.server.wanted = "stop"
    ending = replica.server.wait_for_ending()
    asking.join()
    assert answers == [b"digits slow"]
    assert ending.cause == "Stopped"
    assert replica.process.wait(10) == 0
    assert list(dict.fromkeys(replica.server.phases)) == [
        "Starting",
        "PreparingImage",
        "Downloading",
        "Ready",
        "Ended",
    ]
    assert replica.server.messages == [
        "A line of the platform.",
        "starts on /run/clary/serve.sock",
        "serves /opt/ml/model/code/serve.py",
        "told to end",
    ]
    assert {point["name"] for point in replica.server.metrics} >= {"CPUUtilization", "MemoryUtilization"}


def test_a_server_that_listens_on_its_port_is_found_there(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica({"ON_PORT": "1"})
    assert replica.wait_until_ready().startswith("127.0.0.1:")
    assert replica.ask(b"2") == b"digits 2"


def test_a_server_works_without_any_network(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica(network_isolation=True)
    replica.wait_until_ready()
    assert replica.ask(b"3") == b"digits 3"


def test_a_server_that_was_killed_or_hangs_is_started_again(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica()
    replica.wait_until_ready()
    os.kill(replica.serving_process(), signal.SIGKILL)
    replica.wait_until_ready(2)
    assert replica.ask(b"again") == b"digits again"
    assert any("The server exited with code 137 (SIGKILL)" in message for _, message in replica.messages)
    replica.ask(b"hang")
    replica.wait_until_ready(3)
    assert replica.ask(b"again") == b"digits again"
    os.kill(replica.serving_process(), signal.SIGKILL)
    ending = replica.server.wait_for_ending()
    assert ending.cause == "ScriptFailed"
    assert ending.message == (
        "The primary container for production variant AllTraffic ended again and again. "
        "The server exited with code 137 (SIGKILL)."
    )


def test_a_server_that_leaks_is_ended_at_its_limit_and_started_again(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica(limits=Limits(cpus=2, memory_bytes=192 * 2**20, max_runtime_seconds=1))
    replica.wait_until_ready()
    with contextlib.suppress(http.client.HTTPException, OSError):
        replica.ask(b"leak")
    replica.wait_until_ready(2)
    assert replica.ask(b"again") == b"digits again"
    assert any("more memory than the instance has" in message for _, message in replica.messages)


def test_a_model_that_fails_to_load_ends_the_replica_with_its_traceback(make_replica: Callable[..., Replica]) -> None:
    ending = make_replica({"FAILS_TO_LOAD": "1"}).server.wait_for_ending()
    assert ending.cause == "ScriptFailed"
    assert ending.exit_code == 1
    assert ending.last_lines[-1] == "RuntimeError: this is no SavedModel"
    assert ending.message.startswith(
        "The primary container for production variant AllTraffic did not pass the ping health check."
    )


def test_a_server_that_never_answers_its_ping_well_is_given_up(make_replica: Callable[..., Replica]) -> None:
    ending = make_replica({"NEVER_WELL": "1"}, startup_seconds=1).server.wait_for_ending()
    assert "did not pass the ping health check" in ending.message
    assert "Its ping was answered with status 500, 1 seconds after its start." in ending.message


def test_a_model_that_is_not_there_is_the_users_to_mend(make_replica: Callable[..., Replica]) -> None:
    ending = make_replica(model=ModelSource(s3_uri="file:///nowhere.tar.gz")).server.wait_for_ending()
    assert ending.cause == "ClientError"
    assert ending.message == "Could not find model data at file:///nowhere.tar.gz."


def test_an_abort_ends_it_at_once(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica()
    replica.wait_until_ready()
    replica.server.wanted = "abort"
    assert replica.server.wait_for_ending().cause == "Stopped"
    assert "told to end" not in replica.server.messages


def test_containers_in_series_hand_their_answers_on(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica(in_series={"first": {}, "second": {"ON_PORT": "1"}})
    assert replica.wait_until_ready().endswith("gateway.sock")
    assert len(replica.serving_processes()) == 2
    assert replica.ask(b"1") == b"digits digits 1"
    assert {line.split(" ")[0] for line in replica.server.messages} == {"[first]", "[second]"}
    replica.server.wanted = "stop"
    assert replica.server.wait_for_ending().cause == "Stopped"
    assert replica.serving_processes() == []


def test_requests_under_way_are_answered_by_all_containers_before_the_end(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica(in_series={"first": {}, "second": {}})
    replica.wait_until_ready()
    answers: list[bytes] = []
    asking = threading.Thread(target=lambda: answers.append(replica.ask(b"slow")))
    asking.start()
    replica.server.wanted = "stop"
    replica.server.wait_for_ending()
    asking.join()
    assert answers == [b"digits digits slow"]


def test_a_container_is_called_directly_by_its_name(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica(in_series={"first": {}, "second": {}}, direct=True)
    replica.wait_until_ready()
    assert replica.ask(b"1", X_Amzn_SageMaker_Target_Container_Hostname="second") == b"digits 1"
    assert b"There is no container" in replica.ask(b"1", X_Amzn_SageMaker_Target_Container_Hostname="third")


def test_one_container_that_was_killed_is_started_again_beside_the_others(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica(in_series={"first": {}, "second": {}})
    replica.wait_until_ready()
    kept, killed = sorted(replica.serving_processes())
    os.kill(killed, signal.SIGKILL)
    replica.wait_until_ready(2)
    assert replica.ask(b"again") == b"digits digits again"
    assert kept in replica.serving_processes()


def test_a_container_that_cannot_serve_ends_the_replica_and_is_named(make_replica: Callable[..., Replica]) -> None:
    replica = make_replica(in_series={"first": {}, "second": {"FAILS_TO_LOAD": "1"}})
    ending = replica.server.wait_for_ending()
    assert ending.message.startswith("The container second for production variant AllTraffic did not pass the ping")
    assert ending.last_lines[-1] == "RuntimeError: this is no SavedModel"
    assert replica.process.wait(10) == 0
    assert replica.serving_processes() == []
