"""Images of the user's own on a whole platform with boto3, and what becomes of their containers when something dies."""

from __future__ import annotations

import io
import os
import signal
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Platform

sys.path.insert(0, str(Path(__file__).parents[2] / "packages" / "clary" / "tests"))
import own_image

BUCKET = "faults"
REGISTRY = "000000000000.dkr.ecr.us-east-1.amazonaws.com"
ROLE = "arn:aws:iam::000000000000:role/ClaryExecutionRole"
Wait = Callable[..., Any]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class OwnEndpoints:
    """Endpoints of the user's image."""

    def __init__(self, platform: Platform, wait_until: Wait) -> None:
        self.platform, self.eventually = platform, wait_until
        self.image = f"{REGISTRY}/{own_image.own_image().removeprefix('localhost/')}"

    @property
    def sagemaker(self) -> Any:
        return self.platform.client("sagemaker")

    def put_model(self, key: str, name: str) -> str:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            member = tarfile.TarInfo("name")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
        self.platform.client("s3").put_object(Bucket=BUCKET, Key=key, Body=archive.getvalue())
        return f"s3://{BUCKET}/{key}"

    def deploy(self, name: str, count: int = 1, **container: Any) -> None:
        """An endpoint that serves, with the container's members as given."""
        container = {"Image": self.image, **container}
        if "ModelDataUrl" not in container:
            container["ModelDataUrl"] = self.put_model(f"{name}/model.tar.gz", "digits")
        self.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
        variant = {
            "VariantName": "AllTraffic",
            "ModelName": name,
            "InstanceType": "ml.m5.large",
            "InitialInstanceCount": count,
        }
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        told = self.eventually(lambda: self._settled(name), f"{name} settles")
        assert told["EndpointStatus"] == "InService", told

    def _settled(self, name: str) -> dict[str, Any] | None:
        told = self.sagemaker.describe_endpoint(EndpointName=name)
        return told if told["EndpointStatus"] in ("InService", "Failed") else None

    def ask(self, name: str, body: bytes = b"1", attempts: int = 8, **members: str) -> bytes:
        runtime = self.platform.client("sagemaker-runtime", attempts)
        return runtime.invoke_endpoint(EndpointName=name, Body=body, **members)["Body"].read()

    def host_ids(self, name: str) -> set[str]:
        return self.platform.host_ids_of_endpoint(name)

    def programs(self, name: str) -> list[int]:
        """The first processes of the endpoint's containers."""
        ids = [f"CLARY_HOST_ID={host_id}".encode() for host_id in self.host_ids(name)]
        return [
            int(folder.name)
            for folder in Path("/proc").glob("[0-9]*")
            if _read(folder / "cmdline") == b"/bin/own\0serve\0"
            and any(mark in _read(folder / "environ").split(b"\0") for mark in ids)
        ]

    @contextmanager
    def load(self, name: str) -> Iterator[list[str]]:
        """Invoke without a pause from four clients that retry nothing; yields what they were answered so far."""
        answers: list[str] = []
        stop = threading.Event()

        def client() -> None:
            runtime = self.platform.client("sagemaker-runtime", attempts=1)
            while not stop.is_set():
                try:
                    answers.append(runtime.invoke_endpoint(EndpointName=name, Body=b"1")["Body"].read().decode())
                except Exception as error:  # noqa: BLE001 - told by the assertion on the answers
                    answers.append(f"{type(error).__name__}: {error}")

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield answers
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def more(self, answers: list[str], count: int) -> None:
        before = answers.count("digits 1")
        self.eventually(lambda: answers.count("digits 1") >= before + count, f"{count} more answers")

    def delete(self, name: str) -> None:
        self.platform.delete_endpoint(name)


@pytest.fixture
def endpoints(platform: Platform, wait_until: Wait) -> Iterator[OwnEndpoints]:
    endpoints = OwnEndpoints(platform, wait_until)
    yield endpoints
    for endpoint in endpoints.sagemaker.list_endpoints()["Endpoints"]:
        endpoints.delete(endpoint["EndpointName"])


def test_an_image_trains_and_serves_what_it_trained(endpoints: OwnEndpoints) -> None:
    platform = endpoints.platform
    platform.client("s3").put_object(Bucket=BUCKET, Key="own/data/name", Body=b"flowers")
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/own/data/"}
    platform.create(
        "own-training",
        "unused",
        AlgorithmSpecification={"TrainingImage": endpoints.image, "TrainingInputMode": "File"},
        HyperParameters={"act": "train"},
        InputDataConfig=[{"ChannelName": "training", "DataSource": {"S3DataSource": source}}],
    )
    job = platform.wait("own-training")
    assert job["TrainingJobStatus"] == "Completed", job
    assert "clary HTTP/1.1 200 OK" in platform.log("own-training")
    endpoints.deploy("own", ModelDataUrl=job["ModelArtifacts"]["S3ModelArtifacts"], Environment={"OWN": "request"})
    assert endpoints.ask("own") == b"flowers 1"
    assert endpoints.ask("own", b"env OWN") == b"request"
    logs = platform.client("logs").filter_log_events(logGroupName="/aws/sagemaker/Endpoints/own")["events"]
    assert "serves on port 8080" in [event["message"] for event in logs]
    ids = endpoints.host_ids("own")
    assert ids
    assert all(own_image.containers_of(host_id) for host_id in ids)
    endpoints.delete("own")
    endpoints.eventually(lambda: not any(map(own_image.containers_of, ids)), "no container is left")


def test_a_job_s_failure_reason_is_what_the_container_wrote(endpoints: OwnEndpoints) -> None:
    algorithm = {"TrainingImage": endpoints.image, "TrainingInputMode": "File"}
    endpoints.platform.create(
        "own-failing", "unused", AlgorithmSpecification=algorithm, HyperParameters={"act": "fail"}
    )
    job = endpoints.platform.wait("own-failing")
    assert job["FailureReason"].startswith("AlgorithmError: the data has no labels, exit code: 3")


def test_an_image_that_is_nowhere_is_refused_with_the_command_that_helps(endpoints: OwnEndpoints) -> None:
    sagemaker = endpoints.sagemaker
    image = f"{REGISTRY}/not-there:1"
    with pytest.raises(sagemaker.exceptions.ClientError) as caught:
        sagemaker.create_model(ModelName="nowhere", PrimaryContainer={"Image": image}, ExecutionRoleArn=ROLE)
    told = caught.value.response["Error"]
    assert told["Code"] == "ValidationException"
    assert told["Message"].startswith("Cannot find repository: not-there in registry ID: 000000000000 Please check")
    assert f"{own_image.engine().name} build -t not-there:1 ." in told["Message"]


def test_several_models_are_loaded_by_an_image_that_says_it_can(endpoints: OwnEndpoints) -> None:
    for name in ("one", "two"):
        endpoints.put_model(f"several/{name}.tar.gz", name)
    endpoints.deploy("several-own", Mode="MultiModel", ModelDataUrl=f"s3://{BUCKET}/several/")
    assert endpoints.ask("several-own", TargetModel="one.tar.gz") == b"one 1"
    assert endpoints.ask("several-own", TargetModel="two.tar.gz") == b"two 1"
    plain = f"{REGISTRY}/{own_image.plain_image().removeprefix('localhost/')}"
    container = {"Image": plain, "Mode": "MultiModel", "ModelDataUrl": f"s3://{BUCKET}/several/"}
    with pytest.raises(endpoints.sagemaker.exceptions.ClientError, match="multi-models=true Docker label"):
        endpoints.sagemaker.create_model(ModelName="cannot", PrimaryContainer=container, ExecutionRoleArn=ROLE)


def test_a_container_that_is_killed_under_load_is_started_again(endpoints: OwnEndpoints) -> None:
    endpoints.deploy("own-killed", count=2)
    with endpoints.load("own-killed") as answers:
        endpoints.more(answers, 20)
        first, _ = endpoints.programs("own-killed")
        os.kill(first, signal.SIGKILL)
        endpoints.more(answers, 60)
        endpoints.eventually(
            lambda: first not in endpoints.programs("own-killed") and len(endpoints.programs("own-killed")) == 2,
            "another runs in its place",
        )
    lost = [answer for answer in answers if answer != "digits 1"]
    assert len(lost) <= 4, f"more than what was in flight: {lost}"


def test_containers_outlive_the_server_and_not_their_supervisor(endpoints: OwnEndpoints) -> None:
    endpoints.deploy("own-outlives")
    before = endpoints.programs("own-outlives")
    endpoints.platform.kill()
    endpoints.platform.start()
    assert endpoints.ask("own-outlives") == b"digits 1"
    assert endpoints.programs("own-outlives") == before
    (first,) = endpoints.host_ids("own-outlives")
    endpoints.platform.processes_of_endpoint("own-outlives")[0].send_signal(signal.SIGKILL)
    endpoints.eventually(lambda: not own_image.containers_of(first), "the container is gone")
    endpoints.eventually(lambda: endpoints.host_ids("own-outlives") - {first}, "another host stands in")
    endpoints.eventually(lambda: endpoints.programs("own-outlives"), "its container runs")
    assert endpoints.ask("own-outlives") == b"digits 1"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
