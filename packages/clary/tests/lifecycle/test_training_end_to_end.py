"""Training jobs on the real local cluster: a real server, its store, supervisors and scripts, seen through boto3."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import boto3
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from seen_jobs import Jobs, wait_for

pytestmark = pytest.mark.slow

SAVE = "import json; me=json.load(open('/opt/ml/input/config/resourceconfig.json')); "
WAIT = "import time; print('begun', flush=True); time.sleep(100)"


class Platform(Jobs):
    """A server of the test's own, and jobs that are Python one-liners."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        environment = {**os.environ, "CLARY_HOME": str(home), "CLARY_PORT": self.url.rpartition(":")[2]}
        with (home / "test-server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clary.server"], env=environment, stdout=log, stderr=log
            )
        self.home = home
        wait_for(self._healthy, 60)
        keys = json.loads((home / "credentials.json").read_text())
        self.client = lambda service: boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=keys["access_key"],
            aws_secret_access_key=keys["secret_key"],
        )
        self.sagemaker, self.s3, self.logs = self.client("sagemaker"), self.client("s3"), self.client("logs")
        self.s3.create_bucket(Bucket="results")

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/_clary/health", timeout=2) as answer:
                return json.load(answer)["status"] == "ready"
        except OSError:
            return False

    def create(
        self, name: str, code: str, *, count: int = 1, instance_type: str = "ml.m5.large", **members: Any
    ) -> str:
        request = {
            "TrainingJobName": name,
            "AlgorithmSpecification": {
                "TrainingImage": "python:3.11",
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["python", "-c", code],
            },
            "RoleArn": "arn:aws:iam::000000000000:role/ClaryExecutionRole",
            "OutputDataConfig": {"S3OutputPath": "s3://results/out"},
            "ResourceConfig": {"InstanceType": instance_type, "InstanceCount": count, "VolumeSizeInGB": 5},
            "StoppingCondition": {"MaxRuntimeInSeconds": 300},
        }
        self.sagemaker.create_training_job(**{**request, **members})
        return name

    def statuses(self, name: str) -> list[str]:
        return [transition["Status"] for transition in self.describe(name)["SecondaryStatusTransitions"]]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    home = tmp_path_factory.mktemp("home")
    images = Path(os.environ.get("CLARY_TEST_IMAGES_HOME", Path.home() / ".cache" / "clary-test-images"))
    images.mkdir(parents=True, exist_ok=True)
    (home / "images").symlink_to(images)
    platform = Platform(home)
    yield platform
    platform.process.terminate()
    platform.process.wait(60)


def test_a_job_passes_through_sagemakers_statuses_and_leaves_its_model(real: Platform) -> None:
    job = real.ended(real.create("whole", "open('/opt/ml/model/weights','w').write('1'); print('trained')"))
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert real.statuses("whole") == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert real.messages("whole")[-1] == "trained"
    assert real.model_files(job) == ["weights"]
    assert job["BillableTimeInSeconds"] >= 1


def test_hosts_of_a_job_know_each_other_and_their_models_are_merged(real: Platform) -> None:
    code = SAVE + "open('/opt/ml/model/'+me['current_host'],'w').write('x'); print(*me['hosts'])"
    job = real.ended(real.create("several", code, count=2))
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    assert real.messages("several")[-2:] == ["algo-1 algo-2"] * 2
    assert real.model_files(job) == ["algo-1", "algo-2"]


def test_one_hosts_failure_ends_all_with_its_reason(real: Platform) -> None:
    code = SAVE + "import sys,time; me['current_host']=='algo-2' and sys.exit(4); time.sleep(100)"
    job = real.ended(real.create("one-fails", code, count=2))
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("AlgorithmError: , exit code: 4. On algo-2.")


def test_a_job_waits_for_the_one_before_it_and_a_stop_makes_room(real: Platform) -> None:
    whole = {"instance_type": "ml.m5.24xlarge"}
    real.create("before", WAIT, **whole)
    wait_for(lambda: "begun" in real.messages("before"))
    real.create("after", "print('my turn')", **whole)
    wait_for(lambda: real.describe("after")["SecondaryStatus"] == "Pending")
    real.create("cancelled", "pass", **whole)
    real.sagemaker.stop_training_job(TrainingJobName="cancelled")
    assert real.ended("cancelled")["TrainingJobStatus"] == "Stopped"
    real.sagemaker.stop_training_job(TrainingJobName="before")
    assert real.ended("before")["SecondaryStatus"] == "Stopped"
    assert real.ended("after")["TrainingJobStatus"] == "Completed"
    assert real.statuses("after")[:3] == ["Starting", "Pending", "Starting"]


def test_a_job_that_runs_too_long_is_stopped(real: Platform) -> None:
    job = real.ended(real.create("too-long", WAIT, StoppingCondition={"MaxRuntimeInSeconds": 1}))
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def test_a_job_that_never_fits_fails_at_once(real: Platform) -> None:
    job = real.ended(real.create("huge", "pass", count=4000))
    assert job["FailureReason"].startswith("CapacityError: Unable to provision requested ML compute capacity.")


def test_ended_jobs_leave_no_folders_and_can_be_deleted(real: Platform) -> None:
    real.ended(real.create("tidy", "pass"))
    real.sagemaker.delete_training_job(TrainingJobName="tidy")
    wait_for(lambda: not list((real.home / "hosts").glob("tidy-*")))
    with pytest.raises(real.sagemaker.exceptions.ClientError, match=r"Requested resource not found\."):
        real.describe("tidy")
