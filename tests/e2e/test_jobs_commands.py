"""`clary jobs`, `clary logs`, `clary stop` and `clary status`, on real jobs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from clary.cli.client import client

if TYPE_CHECKING:
    from conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
BUCKET = "commands"
SCRIPTS = {
    "counts.py": "import time\nfor n in range(5):\n    print('count', n, flush=True)\n    time.sleep(0.2)\n",
    "fails.py": "print('before', flush=True)\nraise KeyError('the missing column')\n",
    "stays.py": "import time\nprint('here', flush=True)\ntime.sleep(600)\n",
}


@pytest.fixture(scope="module")
def sagemaker(server: Server) -> Any:
    s3 = client("s3", server.home)
    s3.create_bucket(Bucket=BUCKET)
    for name, text in SCRIPTS.items():
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        s3.put_object(Bucket=BUCKET, Key=f"{name}.tar.gz", Body=archive.getvalue())
    return client("sagemaker", server.home)


def start(sagemaker: Any, name: str, script: str) -> None:
    sagemaker.create_training_job(
        TrainingJobName=name,
        RoleArn="arn:aws:iam::000000000000:role/ClaryExecutionRole",
        AlgorithmSpecification={"TrainingImage": "python:3.12", "TrainingInputMode": "File"},
        HyperParameters={
            "sagemaker_program": script,
            "sagemaker_submit_directory": f"s3://{BUCKET}/{script}.tar.gz",
        },
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/out"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 700},
    )


def wait_for_line(server: Server, job: str, line: str) -> None:
    deadline = time.monotonic() + 120
    while line not in server.clary("logs", job).stdout.splitlines():
        assert time.monotonic() < deadline, f"{job} never printed {line!r}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def followed(server: Server, sagemaker: Any) -> subprocess.CompletedProcess[str]:
    """What was seen of the job commands-counts, which has ended well."""
    start(sagemaker, "commands-counts", "counts.py")
    followed = server.clary("logs", "-f", "commands-counts")
    assert followed.returncode == 0, followed.stderr
    return followed


def test_logs_can_be_followed_to_the_end_and_read_again(
    server: Server, followed: subprocess.CompletedProcess[str]
) -> None:
    counts = [line for line in followed.stdout.splitlines() if line.startswith("count ")]
    assert counts == [f"count {n}" for n in range(5)]
    assert server.clary("logs", "commands-counts").stdout == followed.stdout

    as_json = [json.loads(line) for line in server.clary("logs", "commands-counts", "--json").stdout.splitlines()]
    assert [event["message"] for event in as_json if event["message"].startswith("count")] == counts
    assert {event["host"] for event in as_json} == {"algo-1"}
    assert server.clary("logs", "commands-counts", "--host", "algo-9").stdout == ""


@pytest.mark.usefixtures("followed")
def test_a_part_of_the_name_is_enough_when_only_one_job_has_it(server: Server) -> None:
    described = json.loads(server.clary("jobs", "describe", "nds-counts", "--json").stdout)
    assert described["TrainingJobName"] == "commands-counts"
    assert described["TrainingJobStatus"] == "Completed"
    unknown = server.clary("jobs", "describe", "never-heard-of")
    assert unknown.returncode == 1
    assert "There is no training job 'never-heard-of'" in unknown.stderr


def test_following_a_job_that_fails_ends_with_its_reason_and_exit_code_1(server: Server, sagemaker: Any) -> None:
    start(sagemaker, "commands-fails", "fails.py")
    followed = server.clary("logs", "-f", "commands-fails")
    assert followed.returncode == 1
    assert "before" in followed.stdout
    assert "the missing column" in followed.stderr
    listed = json.loads(server.clary("jobs", "list", "--status", "failed", "--name", "commands", "--json").stdout)
    assert [job["TrainingJobName"] for job in listed] == ["commands-fails"]


def test_a_running_job_shows_in_status_and_can_be_stopped(server: Server, sagemaker: Any) -> None:
    start(sagemaker, "commands-stays", "stays.py")
    wait_for_line(server, "commands-stays", "here")
    status = json.loads(server.clary("status", "--json").stdout)
    assert {"name": "commands-stays", "secondary_status": "Training", "instances": "1 × ml.m5.large"} in status["jobs"][
        "in_progress"
    ]
    assert "commands-stays" in server.clary("jobs").stdout

    stopped = json.loads(server.clary("stop", "commands-stays", "--json").stdout)
    assert stopped == {"name": "commands-stays", "status": "Stopped"}
    assert "here" in server.clary("logs", "commands-stays").stdout


@pytest.mark.usefixtures("followed")
def test_a_reader_that_goes_away_is_no_fault_of_ours(server: Server) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m clary.cli logs commands-counts | head -1"],
        env=server.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
