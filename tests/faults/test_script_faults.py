"""A script may do what it likes: the job's status, reason and log are right, and nothing is left running."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Platform

pytestmark = pytest.mark.slow


def test_a_script_that_raises_fails_the_job_with_its_traceback(platform: Platform) -> None:
    platform.train("raises", "def load():\n    raise KeyError('no such column: price')\nload()\n")
    described = platform.wait("raises")
    assert described["TrainingJobStatus"] == "Failed"
    assert described["FailureReason"].startswith("AlgorithmError: ExecuteUserScriptError:")
    assert "exit code: 1" in described["FailureReason"]
    assert "KeyError: 'no such column: price'" in described["FailureReason"]
    assert any("no such column: price" in line for line in platform.log("raises"))


def test_a_script_that_writes_its_own_reason_is_quoted(platform: Platform) -> None:
    platform.train(
        "own-reason", "open('/opt/ml/output/failure', 'w').write('the data is empty')\nraise SystemExit(3)\n"
    )
    described = platform.wait("own-reason")
    assert described["TrainingJobStatus"] == "Failed"
    assert "the data is empty" in described["FailureReason"]


def test_a_script_killed_by_a_signal_says_which(platform: Platform) -> None:
    platform.train("killed", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    described = platform.wait("killed")
    assert described["TrainingJobStatus"] == "Failed"
    assert "SIGSEGV" in described["FailureReason"]


def test_a_script_that_needs_too_much_memory_is_told_so(platform: Platform) -> None:
    platform.train(
        "too-big", "blocks = []\nwhile True:\n    blocks.append(bytearray(64 << 20))\n",
        ResourceConfig={"InstanceType": "ml.t3.medium", "InstanceCount": 1, "VolumeSizeInGB": 1},
    )  # fmt: skip
    described = platform.wait("too-big")
    assert described["TrainingJobStatus"] == "Failed"
    assert described["FailureReason"].startswith("ClientError: Please use an instance type with more memory")
    assert "memory" in described["FailureReason"].split(".", 1)[1].lower(), "and how much it had used"


def test_a_script_that_fills_its_disk_is_told_so(platform: Platform) -> None:
    script = """
import os
with open("/opt/ml/model/huge", "wb") as file:
    while True:
        file.write(b"x" * (8 << 20))
"""
    platform.train("fills-disk", script)  # VolumeSizeInGB is 1
    described = platform.wait("fills-disk")
    assert described["TrainingJobStatus"] == "Failed"
    assert "more than the 1.00 GiB of its volume. Raise VolumeSizeInGB" in described["FailureReason"]


def test_nothing_that_a_script_started_outlives_it(platform: Platform, wait_until) -> None:
    script = """
import subprocess, sys
sleeper = "import time; time.sleep(600)"
subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True)
subprocess.Popen([sys.executable, "-c", f"import os\\nif os.fork() == 0:\\n    os.setsid()\\n    {sleeper}"])
print("left children behind", flush=True)
"""
    platform.train("forks", script)
    described = platform.wait("forks")
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    wait_until(lambda: not platform.processes_of("forks"), "every process of the job is gone", 20)


def test_ten_megabytes_on_one_line_lose_nothing(platform: Platform) -> None:
    platform.train("long-line", "print('x' * (10 << 20))\nprint('after')\n")
    described = platform.wait("long-line")
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    lines = platform.log("long-line")
    assert sum(line.count("x") for line in lines if set(line) == {"x"}) == 10 << 20
    assert "after" in lines


def test_bytes_that_are_not_text_are_replaced_not_lost(platform: Platform) -> None:
    platform.train("not-text", r"import sys; sys.stdout.buffer.write(b'before \xff\xfe after\n')" + "\n")
    described = platform.wait("not-text")
    assert described["TrainingJobStatus"] == "Completed", described.get("FailureReason")
    assert "before \ufffd\ufffd after" in platform.log("not-text")


def test_a_script_that_ignores_sigterm_is_killed_after_its_grace(
    platform: Platform, wait_until, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("not now", flush=True))
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""
    platform.train("stubborn", script, StoppingCondition={"MaxRuntimeInSeconds": 600})
    platform.wait_for_line("stubborn", "ready")
    platform.client("sagemaker").stop_training_job(TrainingJobName="stubborn")
    platform.wait_for_line("stubborn", "not now")
    assert platform.describe("stubborn")["TrainingJobStatus"] == "Stopping"
    described = platform.wait("stubborn", 60)
    assert described["TrainingJobStatus"] == "Stopped"
    wait_until(lambda: not platform.processes_of("stubborn"), "every process of the job is gone")


def test_a_script_that_saves_on_sigterm_keeps_its_model(platform: Platform) -> None:
    script = """
import signal, sys, time
def save(*_):
    open("/opt/ml/model/weights", "w").write("partly trained")
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""
    platform.train("saves", script)
    platform.wait_for_line("saves", "ready")
    platform.client("sagemaker").stop_training_job(TrainingJobName="saves")
    described = platform.wait("saves", 30)
    assert described["TrainingJobStatus"] == "Stopped"
    assert described["ModelArtifacts"]["S3ModelArtifacts"].endswith("/saves/output/model.tar.gz")
    assert "saved" in platform.log("saves")


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped"])
def test_a_source_archive_that_leaves_its_folder_is_refused_and_named(platform: Platform, name: str) -> None:
    job = "archive-" + ("parent" if name.startswith("..") else "absolute")
    platform.upload_source(f"{job}/sourcedir.tar.gz", {"train.py": "print('ran')\n", name: "bad"})
    platform.create(job, f"s3://faults/{job}/sourcedir.tar.gz")
    described = platform.wait(job)
    assert described["TrainingJobStatus"] == "Failed"
    assert "escaped" in described["FailureReason"]
    assert "ran" not in platform.log(job)
