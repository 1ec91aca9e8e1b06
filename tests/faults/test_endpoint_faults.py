"""Endpoints under faults: what dies is replaced, what fails is rolled back, and requests are answered meanwhile."""

from __future__ import annotations

import io
import json
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Platform

BUCKET = "faults"
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-inference:2.19-cpu"
ROLE = "arn:aws:iam::000000000000:role/ClaryExecutionRole"
Wait = Callable[..., Any]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ANSWERING = """
import json, os, time

def model_fn(model_dir):
    return {version!r}

def transform_fn(model, data, content_type, accept):
    asked = json.loads(data)
    if asked == "exit":
        os._exit(7)
    time.sleep(asked.get("seconds", 0))
    return json.dumps({{"version": model}}), "application/json"
"""


class Endpoints:
    """Endpoints whose models are a line of Python."""

    def __init__(self, platform: Platform, wait_until: Wait) -> None:
        self.platform = platform
        self.eventually = wait_until

    @property
    def sagemaker(self) -> Any:
        return self.platform.client("sagemaker")

    def configure(self, name: str, script: str, count: int = 1) -> None:
        """A model whose inference.py is `script`, and a configuration that serves it."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            member = tarfile.TarInfo("code/inference.py")
            member.size = len(script.encode())
            tar.addfile(member, io.BytesIO(script.encode()))
        key = f"{name}/model.tar.gz"
        self.platform.client("s3").put_object(Bucket=BUCKET, Key=key, Body=archive.getvalue())
        container = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/{key}"}
        self.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
        variant = {
            "VariantName": "AllTraffic",
            "ModelName": name,
            "InstanceType": "ml.m5.large",
            "InitialInstanceCount": count,
        }
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])

    def deploy(self, name: str, count: int = 1) -> dict[str, Any]:
        """An endpoint that serves its first version."""
        self.configure(name, ANSWERING.format(version="first"), count)
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        return self.settled(name)

    def settled(self, name: str, seconds: float = 120) -> dict[str, Any]:
        """The endpoint's description once nothing is in progress."""

        def look() -> dict[str, Any] | None:
            told = self.sagemaker.describe_endpoint(EndpointName=name)
            return told if told["EndpointStatus"] in ("InService", "Failed") else None

        return self.eventually(look, f"{name} settles", seconds)

    def invoke(self, name: str, asked: Any = None) -> Any:
        body = json.dumps({} if asked is None else asked)
        answer = self.platform.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=name, Body=body, ContentType="application/json"
        )
        return json.loads(answer["Body"].read())

    def delete(self, name: str) -> None:
        self.sagemaker.delete_endpoint(EndpointName=name)
        self.sagemaker.get_waiter("endpoint_deleted").wait(
            EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 90}
        )

    @contextmanager
    def load(self, name: str, clients: int = 4, **members: str) -> Iterator[Callable[[], list[str]]]:
        """Invoke without a pause from several clients that retry nothing; yields what they were answered so far."""
        answers: list[str] = []
        stop = threading.Event()

        def client() -> None:
            runtime = self.platform.client("sagemaker-runtime", attempts=1)
            while not stop.is_set():
                try:
                    answer = runtime.invoke_endpoint(
                        EndpointName=name, Body=b"{}", ContentType="application/json", **members
                    )
                    answers.append(json.loads(answer["Body"].read())["version"])
                except Exception as error:  # noqa: BLE001 - told by the assertion on the answers
                    answers.append(f"{type(error).__name__}: {error}")

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield lambda: list(answers)
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def more(self, answers: Callable[[], list[str]], count: int, version: str) -> None:
        """Wait until a version has given so many further answers."""
        before = answers().count(version)
        self.eventually(lambda: answers().count(version) >= before + count, f"{count} more answers of {version}")


@pytest.fixture
def endpoints(platform: Platform, wait_until: Wait) -> Iterator[Endpoints]:
    endpoints = Endpoints(platform, wait_until)
    yield endpoints
    for endpoint in endpoints.sagemaker.list_endpoints()["Endpoints"]:
        endpoints.delete(endpoint["EndpointName"])


def servers_of(platform: Platform, endpoint: str) -> list[psutil.Process]:
    """The model servers of an endpoint."""
    return [process for process in platform.processes_of_endpoint(endpoint) if _is_server(process)]


def _is_server(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return any(word.endswith("/serve") for word in command[:3]) and "bwrap" not in command[0]


def test_updates_under_load_lose_no_request(endpoints: Endpoints) -> None:
    endpoints.deploy("updated")
    with endpoints.load("updated") as answers:
        endpoints.more(answers, 20, "first")
        for version in ("second", "third", "fourth"):
            endpoints.configure(version, ANSWERING.format(version=version))
            endpoints.sagemaker.update_endpoint(EndpointName="updated", EndpointConfigName=version)
            assert endpoints.settled("updated")["EndpointConfigName"] == version
            endpoints.more(answers, 20, version)
        time.sleep(3)  # the old instances have drained and are stopped by now
        endpoints.more(answers, 20, "fourth")
    assert set(answers()) == {"first", "second", "third", "fourth"}


def test_an_update_to_a_model_that_does_not_load_is_rolled_back_and_says_why(endpoints: Endpoints) -> None:
    endpoints.deploy("kept")
    endpoints.configure("broken", "raise ValueError('the weights are missing')")
    with endpoints.load("kept", clients=2) as answers:
        endpoints.sagemaker.update_endpoint(EndpointName="kept", EndpointConfigName="broken")
        told = endpoints.settled("kept")
    assert told["EndpointStatus"] == "InService"
    assert told["EndpointConfigName"] == "kept"
    assert "did not pass the ping health check" in told["FailureReason"]
    assert "the weights are missing" in told["FailureReason"]
    assert set(answers()) == {"first"}


def test_an_endpoint_whose_model_does_not_load_fails_and_says_why(endpoints: Endpoints) -> None:
    endpoints.configure("never", "import a_module_that_nobody_has")
    endpoints.sagemaker.create_endpoint(EndpointName="never", EndpointConfigName="never")
    told = endpoints.settled("never")
    assert told["EndpointStatus"] == "Failed"
    assert "a_module_that_nobody_has" in told["FailureReason"]


def test_killing_the_server_leaves_the_instances_serving(endpoints: Endpoints) -> None:
    endpoints.deploy("outlives")
    before = {process.pid for process in endpoints.platform.processes_of_endpoint("outlives")}
    endpoints.platform.kill()
    endpoints.platform.start()
    assert endpoints.invoke("outlives") == {"version": "first"}
    assert before <= {process.pid for process in endpoints.platform.processes_of_endpoint("outlives")}


def test_a_model_server_that_is_killed_under_load_is_started_again(endpoints: Endpoints) -> None:
    endpoints.deploy("killed", count=2)
    with endpoints.load("killed") as answers:
        endpoints.more(answers, 20, "first")
        servers_of(endpoints.platform, "killed")[0].send_signal(signal.SIGKILL)
        endpoints.more(answers, 60, "first")
    lost = [answer for answer in answers() if answer != "first"]
    assert len(lost) <= 4, f"more than what was in flight: {lost}"


def test_an_instance_whose_supervisor_is_killed_is_replaced(endpoints: Endpoints) -> None:
    endpoints.deploy("replaced")
    before = endpoints.platform.processes_of_endpoint("replaced")
    before[0].send_signal(signal.SIGKILL)
    gone = {process.pid for process in before}
    endpoints.eventually(
        lambda: gone.isdisjoint(process.pid for process in endpoints.platform.processes_of_endpoint("replaced")),
        "all of the old instance is gone",
    )
    endpoints.eventually(lambda: _answers(endpoints, "replaced"), "the new instance answers")


def _answers(endpoints: Endpoints, name: str) -> bool:
    try:
        return endpoints.invoke(name) == {"version": "first"}
    except endpoints.platform.client("sagemaker-runtime").exceptions.ClientError:
        return False


def test_killed_containers_of_many_models_cost_no_request(
    platform: Platform, endpoints: Endpoints, wait_until: Wait
) -> None:
    endpoints.configure("many", ANSWERING.format(version="first"), count=2)
    sagemaker = endpoints.sagemaker
    sagemaker.delete_model(ModelName="many")
    container = {"Image": IMAGE, "Mode": "MultiModel", "ModelDataUrl": f"s3://{BUCKET}/many/"}
    sagemaker.create_model(ModelName="many", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    sagemaker.create_endpoint(EndpointName="many", EndpointConfigName="many")
    assert endpoints.settled("many")["EndpointStatus"] == "InService"
    with endpoints.load("many", TargetModel="model.tar.gz") as answers:
        endpoints.more(answers, 50, "first")
        servers = servers_of(platform, "many")
        for server in servers:
            with suppress(psutil.NoSuchProcess):  # its end may have been another one's
                server.kill()
            endpoints.more(answers, 50, "first")
        wait_until(lambda: len(servers_of(platform, "many")) == len(servers), "both containers run again")
        endpoints.more(answers, 50, "first")
    assert set(answers()) == {"first"}
