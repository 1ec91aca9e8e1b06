"""On a machine with NVIDIA GPUs: jobs and endpoints get theirs, and nobody gets another's. Elsewhere these tests skip.

What runs on the GPU is a kernel for the driver itself: no framework is needed, so that the tests take a minute.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from uv import find_uv_bin

from clary.cli.client import client
from clary.host.bubblewrap import unavailable
from clary.host.gpus import usable

if TYPE_CHECKING:
    from conftest import Server

THERE = len(usable())
PROGRAMS = Path(__file__).parent / "scripts" / "gpus"
IMAGE = "python:3.12"
BUCKET = "gpus"
SMALL = "ml.m5.medium"  # one CPU, so that processors are not what a job waits for
ROLE = "arn:aws:iam::000000000000:role/ClaryExecutionRole"
ENDED = ("Completed", "Failed", "Stopped")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not THERE, reason="needs an NVIDIA GPU, and this machine shows none"),
]


@pytest.fixture(scope="module", params=["sandboxed", "relocated"])
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, start_server: Callable[..., Any]
) -> Iterator[Lab]:
    """A server that runs jobs in bubblewrap, and one that has none."""
    variables: dict[str, str] = {}
    if request.param == "relocated":
        variables["PATH"] = path_without("bwrap", tmp_path_factory.mktemp("programs"))
    elif reason := unavailable():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patched:
        # Images of its own: the plain Python gets numpy, which the model server needs.
        patched.setenv("CLARY_TEST_IMAGES_HOME", str(tmp_path_factory.mktemp("images")))
        with start_server(tmp_path_factory.mktemp("clary-home"), variables) as server:
            made = Lab(server, sandboxed=request.param == "sandboxed")
            made.prepare()
            yield made


@pytest.fixture(autouse=True)
def _nothing_is_left(lab: Lab) -> Iterator[None]:
    """What a failed test leaves would keep the GPUs from the next."""
    yield
    lab.clear()


class Lab:
    """A server, and what the tests ask of it."""

    def __init__(self, server: Server, *, sandboxed: bool) -> None:
        self.server, self.sandboxed = server, sandboxed
        self.sagemaker = client("sagemaker", server.home)

    def prepare(self) -> None:
        pulled = self.server.clary("images", "pull", IMAGE)
        assert pulled.returncode == 0, pulled.stderr
        (python,) = (self.server.home / "images").glob("python-py312-*/bin/python")
        subprocess.run([find_uv_bin(), "pip", "install", "--quiet", "--python", str(python), "numpy"], check=True)
        s3 = client("s3", self.server.home)
        s3.create_bucket(Bucket=BUCKET)
        for key, folder, names in (
            ("source", "", ("train.py", "cuda.py")),
            ("model", "code/", ("inference.py", "cuda.py")),
        ):
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w:gz") as tar:
                for name in names:
                    tar.add(PROGRAMS / name, folder + name)
            s3.put_object(Bucket=BUCKET, Key=f"{key}.tar.gz", Body=archive.getvalue())

    def train(self, name: str, instance_type: str = "ml.g4dn.xlarge", gpus: float | None = None, **words: str) -> str:
        """Start a job of one host; its name."""
        self.sagemaker.create_training_job(
            TrainingJobName=name,
            RoleArn=ROLE,
            AlgorithmSpecification={"TrainingImage": IMAGE, "TrainingInputMode": "File"},
            HyperParameters={
                "sagemaker_program": "train.py",
                "sagemaker_submit_directory": f"s3://{BUCKET}/source.tar.gz",
                "do": "nothing",
                **words,
            },
            Environment={} if gpus is None else {"CLARY_GPUS": str(gpus)},
            OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/out"},
            ResourceConfig={"InstanceType": instance_type, "InstanceCount": 1, "VolumeSizeInGB": 1},
            StoppingCondition={"MaxRuntimeInSeconds": 700},
        )
        return name

    def described(self, job: str) -> dict[str, Any]:
        return self.sagemaker.describe_training_job(TrainingJobName=job)

    def ended(self, job: str) -> dict[str, Any]:
        return eventually(lambda: (found := self.described(job))["TrainingJobStatus"] in ENDED and found, f"{job} ends")

    def lines(self, job: str) -> list[str]:
        return self.server.clary("logs", job).stdout.splitlines()

    def seen(self, job: str) -> dict[str, Any]:
        """What the job's script has seen, once it has said so."""
        line = eventually(
            lambda: next((line for line in self.lines(job) if line.startswith("SEEN ")), None),
            f"{job} says what it sees: {self.described(job).get('FailureReason')}",
        )
        return json.loads(line.removeprefix("SEEN "))

    def serve(self, name: str, instances: int = 1) -> None:
        """Begin to make an endpoint on GPU instances."""
        source = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/model.tar.gz"}
        self.sagemaker.create_model(ModelName=name, PrimaryContainer=source, ExecutionRoleArn=ROLE)
        variant = {
            "VariantName": "AllTraffic",
            "ModelName": name,
            "InstanceType": "ml.g4dn.xlarge",
            "InitialInstanceCount": instances,
        }
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)

    def settled(self, endpoint: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found = self.sagemaker.describe_endpoint(EndpointName=endpoint)
            return found if found["EndpointStatus"] in ("InService", "Failed") else None

        return eventually(look, f"{endpoint} is made")

    def invoke(self, endpoint: str, numbers: list[float]) -> dict[str, Any]:
        runtime = client("sagemaker-runtime", self.server.home)
        answer = runtime.invoke_endpoint(
            EndpointName=endpoint, Body=json.dumps(numbers), ContentType="application/json", Accept="application/json"
        )
        return json.loads(answer["Body"].read())

    def delete(self, endpoint: str) -> None:
        self.sagemaker.delete_endpoint(EndpointName=endpoint)

    def clear(self) -> None:
        """End all jobs and endpoints."""
        for endpoint in self.sagemaker.list_endpoints()["Endpoints"]:
            if endpoint["EndpointStatus"] != "Deleting":
                self.delete(endpoint["EndpointName"])
        jobs = self.sagemaker.list_training_jobs(StatusEquals="InProgress", MaxResults=100)["TrainingJobSummaries"]
        for job in jobs:
            self.sagemaker.stop_training_job(TrainingJobName=job["TrainingJobName"])
            self.ended(job["TrainingJobName"])

    def gpus_taken(self) -> float:
        (node,) = json.loads(self.server.clary("status", "--json").stdout)["cluster"]["nodes"]
        return node["gpus_taken"]

    def highest(self, metric: str, job: str) -> float:
        """The highest reading of an instance metric of a job."""
        found = client("cloudwatch", self.server.home).get_metric_statistics(
            Namespace="/aws/sagemaker/TrainingJobs",
            MetricName=metric,
            Dimensions=[{"Name": "Host", "Value": f"{job}/algo-1"}],
            StartTime=time.time() - 600,
            EndTime=time.time() + 60,
            Period=60,
            Statistics=["Maximum"],
        )
        return max((point["Maximum"] for point in found["Datapoints"]), default=-1.0)


def eventually(look: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
    return found


def path_without(program: str, folder: Path) -> str:
    """A PATH with all programs but one."""
    parts: list[str] = []
    for number, part in enumerate(os.environ["PATH"].split(":")):
        if part and (Path(part) / program).exists():
            copy = folder / str(number)
            copy.mkdir()
            for path in Path(part).iterdir():
                if path.name != program:
                    (copy / path.name).symlink_to(path)
            part = str(copy)
        parts.append(part)
    path = ":".join(parts)
    assert shutil.which(program, path=path) is None
    return path


def test_doctor_and_status_name_the_gpus(lab: Lab) -> None:
    findings = {found["name"]: found for found in json.loads(lab.server.clary("doctor", "--json").stdout)}
    assert findings["GPU"]["state"] == "ok", findings["GPU"]
    assert "MiB, driver " in findings["GPU"]["detail"]
    (node,) = json.loads(lab.server.clary("status", "--json").stdout)["cluster"]["nodes"]
    assert node["gpus"] == THERE
    assert f"0 of {THERE} taken" in lab.server.clary("status").stdout


def test_a_job_on_a_gpu_instance_computes_on_a_gpu_of_its_own(lab: Lab) -> None:
    job = lab.train(f"one-gpu-{lab.sandboxed:d}", "ml.p3.2xlarge")
    seen = lab.seen(job)
    assert (seen["cuda"], seen["count"]) == (0, 1), seen
    assert seen["answers"] == [1.0, 1.5, 42.0]
    assert seen["name"] in lab.server.clary("doctor").stdout
    assert (seen["variables"]["SM_NUM_GPUS"], seen["instance_type"]) == ("1", "ml.p3.2xlarge")
    if lab.sandboxed:
        assert seen["base"] == "/opt/ml"
        assert len(seen["devices"]) == 1
    assert lab.ended(job)["TrainingJobStatus"] == "Completed"


def test_a_job_on_a_cpu_instance_sees_no_gpu(lab: Lab) -> None:
    seen = lab.seen(lab.train(f"no-gpu-{lab.sandboxed:d}", "ml.m5.large"))
    assert seen["count"] == 0
    assert seen["cuda"] != 0, "CUDA begins only where it has a device"
    assert seen["variables"]["SM_NUM_GPUS"] == "0"
    if lab.sandboxed:
        assert not seen["devices"]


def test_a_framework_finds_the_gpu(lab: Lab) -> None:
    python = os.environ.get("CLARY_TEST_TORCH")
    if not python:
        pytest.skip("CLARY_TEST_TORCH names no Python that has PyTorch with CUDA")
    job = lab.train(f"product-{lab.sandboxed:d}", do="product", python=python)
    assert lab.ended(job)["TrainingJobStatus"] == "Completed", lab.lines(job)
    assert "PRODUCT True" in lab.lines(job)


def test_metrics_show_how_busy_the_gpu_was(lab: Lab) -> None:
    job = lab.train(f"busy-{lab.sandboxed:d}", do="compute", seconds="6")
    assert lab.ended(job)["TrainingJobStatus"] == "Completed", lab.lines(job)
    assert 30 < lab.highest("GPUUtilization", job) <= 100
    assert 15 < lab.highest("GPUMemoryUtilization", job) < 60  # it holds a quarter for most of the time


def test_jobs_that_want_the_same_gpus_run_one_after_the_other(lab: Lab) -> None:
    """Stopping a job, and its death, free what it had."""
    names = [f"{way}-{lab.sandboxed:d}" for way in ("stopped", "dies", "last")]
    lab.train(names[0], SMALL, THERE, do="stay")
    lab.train(names[1], SMALL, THERE, do="die")
    lab.train(names[2], SMALL, THERE)
    assert lab.seen(names[0])["count"] == THERE
    assert lab.gpus_taken() == THERE
    assert [lab.described(name)["SecondaryStatus"] for name in names] == ["Training", "Pending", "Pending"]
    lab.sagemaker.stop_training_job(TrainingJobName=names[0])
    ends = [lab.ended(name) for name in names]
    assert [end["TrainingJobStatus"] for end in ends] == ["Stopped", "Failed", "Completed"]
    assert lab.seen(names[2])["count"] == THERE
    assert ends[0]["TrainingEndTime"] <= ends[1]["TrainingStartTime"]
    assert ends[1]["TrainingEndTime"] <= ends[2]["TrainingStartTime"]
    assert lab.gpus_taken() == 0


def test_jobs_with_parts_of_a_gpu_run_beside_each_other(lab: Lab) -> None:
    names = [lab.train(f"half-{n}-{lab.sandboxed:d}", SMALL, 0.5, do="stay") for n in (1, 2)]
    seen = [lab.seen(name) for name in names]
    assert [each["answers"] for each in seen] == [[1.0, 1.5, 42.0]] * 2
    assert seen[0]["devices"] == seen[1]["devices"]
    assert lab.gpus_taken() == 1
    for name in names:
        lab.sagemaker.stop_training_job(TrainingJobName=name)
        assert lab.ended(name)["TrainingJobStatus"] == "Stopped"


def test_more_gpus_than_there_are_is_refused_with_the_reason(lab: Lab) -> None:
    end = lab.ended(lab.train(f"too-many-{lab.sandboxed:d}", SMALL, THERE + 1))
    assert end["TrainingJobStatus"] == "Failed"
    assert "CapacityError" in end["FailureReason"]
    assert f"and {THERE + 1} GPUs" in end["FailureReason"]
    assert f"and {THERE} GPUs for jobs" in end["FailureReason"]


def test_an_endpoint_answers_from_a_gpu_of_its_own_and_another_waits_for_it(lab: Lab) -> None:
    first, second = f"first-{lab.sandboxed:d}", f"second-{lab.sandboxed:d}"
    lab.serve(first, THERE)
    made = lab.settled(first)
    assert made["EndpointStatus"] == "InService", made.get("FailureReason")
    answer = lab.invoke(first, [1.0, 2.5])
    assert (answer["answers"], answer["count"]) == ([3.0, 4.5], 1)
    assert lab.gpus_taken() == THERE
    lab.serve(second, THERE)
    waits = "Waiting for memory or GPUs that other jobs and endpoints hold."
    eventually(lambda: waits in lab.server.clary("endpoints", "describe", second).stdout, f"{second} says {waits}")
    lab.delete(first)
    made = lab.settled(second)
    assert made["EndpointStatus"] == "InService", made.get("FailureReason")
    assert lab.invoke(second, [1.0])["answers"] == [3.0]
    lab.delete(second)
    eventually(lambda: not lab.gpus_taken(), "the endpoint's GPUs are free")


def test_an_endpoint_with_more_instances_than_gpus_is_refused_with_the_reason(lab: Lab) -> None:
    name = f"crowd-{lab.sandboxed:d}"
    lab.serve(name, THERE + 1)
    made = lab.settled(name)
    assert made["EndpointStatus"] == "Failed"
    assert f"and {THERE + 1} GPUs" in made["FailureReason"]
    lab.delete(name)
