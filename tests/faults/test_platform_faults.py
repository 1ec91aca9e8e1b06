"""kill -9 of any part at any moment loses no record, log line or artifact."""

from __future__ import annotations

import io
import os
import signal
import tarfile
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Platform

pytestmark = pytest.mark.slow

COUNTING = """
import time
for number in range({lines}):
    print(f"line {{number}}", flush=True)
    time.sleep({pause})
open("/opt/ml/model/weights", "wb").write(b"w" * 1000)
"""


def numbers(lines: list[str]) -> list[int]:
    """The numbers that the counting script logged, in the order of the log."""
    return [int(line.split()[1]) for line in lines if line.startswith("line ")]


def test_a_job_completes_with_every_line_though_the_server_is_killed(platform: Platform) -> None:
    platform.train("outlives-server", COUNTING.format(lines=200, pause=0.05))
    platform.wait_for_line("outlives-server", "line 20")
    platform.kill()
    platform.start()
    described = platform.wait("outlives-server")
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    assert numbers(platform.log("outlives-server")) == list(range(200))


def test_a_job_that_ends_while_no_server_runs_is_completed_by_the_next_one(platform: Platform) -> None:
    platform.train("ends-alone", COUNTING.format(lines=40, pause=0.05))
    platform.wait_for_line("ends-alone", "line 3")
    platform.kill()
    # The script needs two seconds more; nothing but the supervisor is there to see it end.
    script = [process for process in platform.processes_of("ends-alone") if "train.py" in " ".join(process.cmdline())]
    psutil.wait_procs(script, timeout=30)
    platform.start()
    described = platform.wait("ends-alone")
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    assert numbers(platform.log("ends-alone")) == list(range(40))


def kill_supervisor(platform: Platform, job: str) -> None:
    supervisors = platform.supervisors_of(job)
    assert supervisors, "the job has a supervisor"
    for supervisor in supervisors:
        supervisor.send_signal(signal.SIGKILL)


def test_a_killed_supervisor_fails_the_job_and_leaves_nothing_running(platform: Platform, wait_until) -> None:
    platform.train("loses-host", COUNTING.format(lines=2000, pause=0.05))
    platform.wait_for_line("loses-host", "line 5")
    kill_supervisor(platform, "loses-host")
    described = platform.wait("loses-host")
    assert described["TrainingJobStatus"] == "Failed"
    assert described["FailureReason"].startswith("InternalServerError: ")
    wait_until(lambda: not platform.processes_of("loses-host"), "every process of the job is gone")


def test_what_a_killed_host_had_not_reported_is_in_the_log(platform: Platform, wait_until) -> None:
    platform.train("last-words", COUNTING.format(lines=2000, pause=0.02))
    platform.wait_for_line("last-words", "line 5")
    platform.kill()
    seen = numbers(platform.log_file_of("last-words"))[-1]
    wait_until(lambda: numbers(platform.log_file_of("last-words"))[-1] > seen + 50, "the script goes on alone")
    kill_supervisor(platform, "last-words")
    unreported = numbers(platform.log_file_of("last-words"))
    platform.start()
    platform.wait("last-words")
    assert numbers(platform.log("last-words"))[: len(unreported)] == unreported


def test_a_killed_supervisor_is_replaced_when_the_retry_strategy_says_so(platform: Platform) -> None:
    script = """
import pathlib, time
print("begins", flush=True)
while pathlib.Path("/opt/ml/input/data/orders/now").read_text() == "wait":
    time.sleep(0.1)
"""
    store = platform.client("s3")
    store.put_object(Bucket="faults", Key="retries/now", Body=b"wait")
    orders = {"S3DataType": "S3Prefix", "S3Uri": "s3://faults/retries/"}
    platform.train(
        "retries-host",
        script,
        RetryStrategy={"MaximumRetryAttempts": 1},
        InputDataConfig=[{"ChannelName": "orders", "DataSource": {"S3DataSource": orders}}],
    )
    platform.wait_for_line("retries-host", "begins")
    store.put_object(Bucket="faults", Key="retries/now", Body=b"end")  # for the second attempt
    kill_supervisor(platform, "retries-host")
    described = platform.wait("retries-host")
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    starts = [t["Status"] for t in described["SecondaryStatusTransitions"]].count("Starting")
    assert starts == 2


def test_a_retried_job_goes_on_from_its_checkpoints(platform: Platform, wait_until) -> None:
    script = """
import pathlib, time
done = pathlib.Path("/opt/ml/checkpoints/epoch")
first = int(done.read_text()) if done.exists() else 0
print(f"begins at {first}", flush=True)
for epoch in range(first, 3):
    done.write_text(str(epoch + 1))
    print(f"finished {epoch}", flush=True)
    while first == 0 and epoch == 1:
        time.sleep(0.1)
"""
    checkpoints = {"S3Uri": "s3://faults/checkpoints/resumes"}
    platform.train("resumes", script, CheckpointConfig=checkpoints, RetryStrategy={"MaximumRetryAttempts": 1})

    def saved() -> bool:
        listed = platform.client("s3").list_objects_v2(Bucket="faults", Prefix="checkpoints/resumes/")
        return any(
            platform.client("s3").get_object(Bucket="faults", Key=found["Key"])["Body"].read() == b"2"
            for found in listed.get("Contents", ())
        )

    wait_until(saved, "the second epoch's checkpoint is in the store")
    kill_supervisor(platform, "resumes")
    described = platform.wait("resumes")
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    assert "begins at 2" in platform.log("resumes")


def test_an_artifact_is_whole_though_the_store_is_killed_during_its_upload(platform: Platform, wait_until) -> None:
    script = """
import os
print("writing", flush=True)
with open("/opt/ml/model/weights", "wb") as file:
    for _ in range(300):
        file.write(os.urandom(1 << 20))
print("written", flush=True)
"""
    platform.train("loses-store", script)
    wait_until(
        lambda: platform.describe("loses-store")["SecondaryStatus"] == "Uploading", "the model is being uploaded", 60
    )
    stores = [p for p in psutil.process_iter() if str(platform.home / "store") in " ".join(_command(p))]
    assert stores, "the store runs"
    for store in stores:
        os.kill(store.pid, signal.SIGKILL)
    described = platform.wait("loses-store", 180)
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    bucket, key = described["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").split("/", 1)
    body = platform.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        assert tar.getmember("weights").size == 300 << 20


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []
