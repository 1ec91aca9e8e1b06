"""Endpoints under faults: what dies is replaced, what fails is rolled back, and requests are answered meanwhile."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

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
    if asked == "raise":
        raise KeyError("a column that is not there")
    if asked == "leak":
        kept = []
        while True:
            kept.append(bytearray(64 << 20))
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

    def configure(
        self, name: str, script: str, count: int = 1, instance_type: str = "ml.m5.large", **environment: str
    ) -> None:
        """A model whose inference.py is `script`, and a configuration that serves it."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            member = tarfile.TarInfo("code/inference.py")
            member.size = len(script.encode())
            tar.addfile(member, io.BytesIO(script.encode()))
        key = f"{name}/model.tar.gz"
        self.platform.client("s3").put_object(Bucket=BUCKET, Key=key, Body=archive.getvalue())
        container = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/{key}", "Environment": environment}
        self.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
        variant = {
            "VariantName": "AllTraffic",
            "ModelName": name,
            "InstanceType": instance_type,
            "InitialInstanceCount": count,
        }
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])

    def deploy(self, name: str, count: int = 1, **more: str) -> dict[str, Any]:
        """An endpoint that serves its first version."""
        self.configure(name, ANSWERING.format(version="first"), count, **more)
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
        self.platform.delete_endpoint(name)

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


class Flood:
    """Invocations over many connections, each asking again as soon as it is answered; nothing is tried twice."""

    def __init__(self, platform: Platform, endpoint: str, connections: int) -> None:
        keys = json.loads((platform.home / "credentials.json").read_text())
        url = f"{platform.url}/endpoints/{endpoint}/invocations"
        signed = AWSRequest("POST", url, data=b"{}", headers={"Content-Type": "application/json"})
        SigV4Auth(Credentials(keys["access_key"], keys["secret_key"]), "sagemaker", "us-east-1").add_auth(signed)
        headers = {**signed.headers, "Host": url.split("/")[2], "Content-Length": "2"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._request = f"POST /endpoints/{endpoint}/invocations HTTP/1.1\r\n{lines}\r\n{{}}".encode()
        self._port, self._connections = platform.port, connections
        self._stop = threading.Event()
        self.versions: Counter[str] = Counter()
        self.others: list[str] = []

    @property
    def answered(self) -> int:
        return self.versions.total()

    def __enter__(self) -> Flood:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._connections)))

    async def _client(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while not self._stop.is_set():
            try:
                writer.write(self._request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
                body = await reader.readexactly(length)
            except (OSError, EOFError) as error:
                self.others.append(repr(error))
                return
            if head.startswith(b"HTTP/1.1 200"):
                self.versions[json.loads(body)["version"]] += 1
            else:
                self.others.append((head + body).decode())
        writer.close()


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


def test_ten_thousand_requests_at_64_connections_during_three_updates_lose_none(endpoints: Endpoints) -> None:
    endpoints.deploy("busy")
    versions = ("second", "third", "fourth")
    for version in versions:
        endpoints.configure(version, ANSWERING.format(version=version))
    old = set(endpoints.platform.processes_of_endpoint("busy"))
    began = time.monotonic()
    with Flood(endpoints.platform, "busy", connections=64) as flood:
        for number, version in enumerate(versions, start=1):
            endpoints.eventually(lambda bar=1500 * number: flood.answered >= bar, f"enough before {version}")
            endpoints.sagemaker.update_endpoint(EndpointName="busy", EndpointConfigName=version)
            assert endpoints.settled("busy")["EndpointConfigName"] == version
        endpoints.eventually(
            lambda: old.isdisjoint(endpoints.platform.processes_of_endpoint("busy")), "the old instance has drained"
        )
        endpoints.eventually(lambda: flood.answered >= 10_000, "10,000 answers")
    print(f"{flood.answered} answers in {time.monotonic() - began:.1f} s")
    assert not flood.others, flood.others[:3]
    assert all(flood.versions[version] > 0 for version in ("first", *versions)), flood.versions


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


def test_killing_the_api_process_is_not_felt_by_invocations(endpoints: Endpoints) -> None:
    endpoints.deploy("unmoved")
    with endpoints.load("unmoved") as answers:
        endpoints.more(answers, 20, "first")
        for _ in range(2):
            endpoints.platform.kill_process("api")
            endpoints.more(answers, 30, "first")
        assert endpoints.sagemaker.describe_endpoint(EndpointName="unmoved")["EndpointStatus"] == "InService"
        endpoints.more(answers, 20, "first")
    assert set(answers()) == {"first"}


def test_a_killed_router_is_back_and_has_lost_no_more_than_was_in_flight(endpoints: Endpoints) -> None:
    endpoints.deploy("rerouted")
    with endpoints.load("rerouted", clients=4) as answers:
        endpoints.more(answers, 20, "first")
        endpoints.platform.kill_process("front")
        began = time.monotonic()
        assert endpoints.invoke("rerouted") == {"version": "first"}
        print(f"the router answers again after {time.monotonic() - began:.2f} s")
        endpoints.more(answers, 40, "first")
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


def test_a_handler_that_raises_or_exits_fails_its_own_request_alone(endpoints: Endpoints) -> None:
    endpoints.deploy("faulty", count=2)
    runtime = endpoints.platform.client("sagemaker-runtime", attempts=1)

    def refusal(asked: str) -> dict[str, Any]:
        with pytest.raises(runtime.exceptions.ModelError) as caught:
            runtime.invoke_endpoint(EndpointName="faulty", Body=json.dumps(asked), ContentType="application/json")
        return caught.value.response

    with endpoints.load("faulty", clients=2) as answers:
        endpoints.more(answers, 5, "first")
        raised = refusal("raise")
        assert (raised["OriginalStatusCode"], raised["ResponseMetadata"]["HTTPStatusCode"]) == (500, 424)
        assert "a column that is not there" in raised["OriginalMessage"]
        exited = refusal("exit")
        assert exited["ResponseMetadata"]["HTTPStatusCode"] == 424
        endpoints.more(answers, 20, "first")
    lost = [answer for answer in answers() if answer != "first"]
    assert len(lost) <= 2, f"more than what was in flight: {lost}"


def test_handlers_that_hang_are_given_up_in_time_and_others_go_on(endpoints: Endpoints) -> None:
    limit = {"SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "2", "SAGEMAKER_MODEL_SERVER_WORKERS": "2"}
    endpoints.deploy("hanging", **limit)
    runtime = endpoints.platform.client("sagemaker-runtime", attempts=1)

    def hang() -> dict[str, Any]:
        with pytest.raises(runtime.exceptions.ModelError) as caught:
            runtime.invoke_endpoint(EndpointName="hanging", Body=b'{"seconds": 3600}', ContentType="application/json")
        return caught.value.response

    with ThreadPoolExecutor(4) as pool:  # more than there are threads for
        hanging = [pool.submit(hang) for _ in range(4)]
        told = [each.result(timeout=60) for each in hanging]
    assert {each["OriginalStatusCode"] for each in told} == {504}
    assert all("did not answer /invocations within the time allowed" in each["OriginalMessage"] for each in told)
    assert endpoints.invoke("hanging") == {"version": "first"}


def test_a_handler_that_leaks_is_ended_replaced_and_the_log_says_why(endpoints: Endpoints) -> None:
    endpoints.deploy("leaking", instance_type="ml.t2.medium")
    runtime = endpoints.platform.client("sagemaker-runtime", attempts=1)
    with pytest.raises(runtime.exceptions.ModelError) as caught:
        runtime.invoke_endpoint(EndpointName="leaking", Body=b'"leak"', ContentType="application/json")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 424
    endpoints.eventually(lambda: _answers(endpoints, "leaking"), "the server that took its place answers", 120)
    logs = endpoints.platform.client("logs")
    group = "/aws/sagemaker/Endpoints/leaking"

    def told() -> bool:
        events = logs.filter_log_events(logGroupName=group)["events"]
        return any("more memory than the instance has" in event["message"] for event in events)

    endpoints.eventually(told, "the log says that the memory was too small")


def _answers(endpoints: Endpoints, name: str) -> bool:
    try:
        return endpoints.invoke(name) == {"version": "first"}
    except endpoints.platform.client("sagemaker-runtime").exceptions.ClientError:
        return False


def test_killed_containers_of_many_models_lose_no_more_than_was_in_flight(
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
    lost = [answer for answer in answers() if answer != "first"]
    assert len(lost) <= 4 * len(servers), f"more than what was in flight: {lost}"
