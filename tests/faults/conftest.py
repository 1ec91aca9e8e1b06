"""A platform of its own for the fault tests: a real server, its store and supervisors, and scripts as training jobs."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import boto3
import psutil
import pytest
from botocore.config import Config

IMAGE = "python:3.11"
ROLE = "arn:aws:iam::000000000000:role/ClaryExecutionRole"
BUCKET = "faults"
T = TypeVar("T")
TERMINAL = ("Completed", "Failed", "Stopped")


def eventually(look: Callable[[], T], what: str, seconds: float = 60) -> T:
    """What `look` returns once that is true; fails with `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


def order_in(folder: Path) -> dict[str, Any]:
    """What the host of a folder was told; nothing where there is none, or the folder is just being removed."""
    try:
        return json.loads((folder / "host.json").read_text())
    except (OSError, ValueError):
        return {}


class Platform:
    """A server on a free port with a home of its own, which may be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "CLARY_HOME": str(self.home), "CLARY_PORT": str(self.port)}
        environment["CLARY_STOP_GRACE_SECONDS"] = "10"  # AWS gives 120: twelve times what a test can wait
        with (self.home / "test-server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "clary.server"], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        eventually(self._healthy, "the server answers its health check", 30)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/_clary/health", timeout=2) as answer:
                return json.load(answer)["status"] == "ready"
        except OSError:
            return False

    @property
    def server_processes(self) -> dict[str, int]:
        """The front and the API process, by name."""
        return json.loads((self.home / "server.json").read_text())["processes"]

    def kill(self) -> None:
        """kill -9 of the whole server, and of nothing else."""
        assert self._process
        processes = [psutil.Process(pid) for pid in self.server_processes.values() if psutil.pid_exists(pid)]
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _, left = psutil.wait_procs(processes, timeout=10)
        assert not left, "the front and the API process end with their parent"

    def kill_process(self, name: str) -> None:
        """kill -9 of the front or of the API process."""
        eventually(lambda: psutil.pid_exists(self.server_processes.get(name, -1)), f"the {name} process runs")
        process = psutil.Process(self.server_processes[name])
        process.kill()
        psutil.wait_procs([process], timeout=10)

    def end(self) -> None:
        """End the server and whatever still runs for it: a test that failed may have left anything."""
        assert self._process
        command = [sys.executable, "-m", "clary.cli", "down", "--stop-jobs", "--delete-endpoints"]
        environment = {**os.environ, "CLARY_HOME": str(self.home), "CLARY_PORT": str(self.port)}
        subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
        self._process.terminate()
        self._process.wait(60)
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(self.home):
                    process.kill()

    def client(self, service: str, attempts: int = 8) -> Any:
        keys = json.loads((self.home / "credentials.json").read_text())
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=keys["access_key"],
            aws_secret_access_key=keys["secret_key"],
            config=Config(retries={"max_attempts": attempts, "mode": "standard"}),
        )

    def train(self, name: str, script: str, **overrides: Any) -> None:
        """Start a script-mode training job of one host that runs `script`."""
        self.upload_source(f"{name}/source/sourcedir.tar.gz", {"train.py": script})
        self.create(name, f"s3://{BUCKET}/{name}/source/sourcedir.tar.gz", **overrides)

    def upload_source(self, key: str, files: dict[str, str]) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for path, text in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(text.encode())
                tar.addfile(member, io.BytesIO(text.encode()))
        self.client("s3").put_object(Bucket=BUCKET, Key=key, Body=archive.getvalue())

    def create(self, name: str, source: str, **overrides: Any) -> None:
        request: dict[str, Any] = {
            "TrainingJobName": name,
            "RoleArn": ROLE,
            "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
            "HyperParameters": {"sagemaker_program": '"train.py"', "sagemaker_submit_directory": json.dumps(source)},
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 300},
        }
        self.client("sagemaker").create_training_job(**{**request, **overrides})

    def describe(self, name: str) -> dict[str, Any]:
        return self.client("sagemaker").describe_training_job(TrainingJobName=name)

    def wait(self, name: str, seconds: float = 120) -> dict[str, Any]:
        """The job's description once it has ended."""

        def ended() -> dict[str, Any] | None:
            described = self.describe(name)
            return described if described["TrainingJobStatus"] in TERMINAL else None

        return eventually(ended, f"{name} ends", seconds)

    def log(self, name: str) -> list[str]:
        """Every line that the job's hosts have logged, host by host."""
        logs = self.client("logs")
        group = "/aws/sagemaker/TrainingJobs"
        try:
            streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")["logStreams"]
        except logs.exceptions.ResourceNotFoundException:
            return []
        lines: list[str] = []
        for stream in streams:
            token: dict[str, str] = {}
            while True:
                page = logs.get_log_events(
                    logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True, **token
                )
                if not page["events"]:
                    break
                lines += [event["message"] for event in page["events"]]
                token = {"nextToken": page["nextForwardToken"]}
        return lines

    def log_file_of(self, job: str) -> list[str]:
        """The lines that the job's host keeps on its own disk until the server has them all."""
        lines: list[str] = []
        for order in self.home.glob("hosts/*/host.json"):
            if order_in(order.parent).get("job_name") == job:
                spooled = (order.parent / "spool" / "logs.jsonl").read_text().splitlines()
                lines += [json.loads(line)["message"] for line in spooled if line.endswith("}")]
        return lines

    def host_ids_of_endpoint(self, endpoint: str) -> set[str]:
        """The instances that there are of an endpoint, as they are named."""
        orders = (order_in(order.parent) for order in self.home.glob("hosts/*/host.json"))
        return {order["host_id"] for order in orders if order.get("endpoint_name") == endpoint}

    def wait_for_line(self, name: str, line: str, seconds: float = 60) -> None:
        eventually(lambda: any(line in logged for logged in self.log(name)), f"{name} logs {line!r}", seconds)

    def processes_of(self, job: str) -> list[psutil.Process]:
        """Every process that runs for a job: its supervisors, and all that they started."""
        return [process for process in psutil.process_iter() if self._works_for(process, job)]

    def _works_for(self, process: psutil.Process, job: str) -> bool:
        try:
            folder = Path(process.cwd())
            environment = process.environ()
        except psutil.Error:
            return False
        if environment.get("TRAINING_JOB_NAME") == job and environment.get("AWS_ENDPOINT_URL") == self.url:
            return True
        return folder.is_relative_to(self.home) and order_in(folder).get("job_name") == job

    def supervisors_of(self, job: str) -> list[psutil.Process]:
        """The supervisors of a job's hosts."""
        return [process for process in self.processes_of(job) if _is_supervisor(process)]

    def delete_endpoint(self, name: str) -> None:
        """Delete an endpoint, and return when it is gone."""
        sagemaker = self.client("sagemaker")
        sagemaker.delete_endpoint(EndpointName=name)
        waiter = sagemaker.get_waiter("endpoint_deleted")
        waiter.wait(EndpointName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 900})

    def processes_of_endpoint(self, endpoint: str) -> list[psutil.Process]:
        """Every process that runs for an endpoint: the supervisors of its instances first, then what they started."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                folder = Path(process.cwd())
                if folder.is_relative_to(self.home) and order_in(folder).get("endpoint_name") == endpoint:
                    found.append(process)
        found.sort(key=lambda process: not _is_supervisor(process))  # not by their ids, which begin again
        started: list[psutil.Process] = []
        for process in found:
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                started += process.children(recursive=True)
        return found + [child for child in started if child not in found]


def _is_supervisor(process: psutil.Process) -> bool:
    try:
        return any("clary.host" in word for word in process.cmdline())
    except psutil.Error:
        return False


@pytest.fixture(scope="session")
def running_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("clary-home")
    images = Path(os.environ.get("CLARY_TEST_IMAGES_HOME", Path.home() / ".cache" / "clary-test-images"))
    images.mkdir(parents=True, exist_ok=True)
    (home / "images").symlink_to(images)
    platform = Platform(home)
    platform.start()
    platform.client("s3").create_bucket(Bucket=BUCKET)
    yield platform
    platform.end()


@pytest.fixture
def platform(running_platform: Platform) -> Iterator[Platform]:
    """The session's platform, running again if the test left it dead."""
    yield running_platform
    if not running_platform._healthy():
        running_platform.start()


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """`eventually`, for the tests."""
    return eventually
