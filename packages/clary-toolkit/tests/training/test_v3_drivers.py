"""SDK v3's driver scripts run in an environment that has bash, Python and pip, and /opt/ml: they need no toolkit.

The drivers are those that the real SDK uploads: its ModelTrainer prepares each job against an S3 of this test, and what
it put there is laid out as a host would.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from toolkit_lab import PASSED_ON, SCRIPTS, Tree, cached_environment, find_python, write_files

# The first of them may have to fetch an environment.
pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(1200)]

KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
REPORT = (
    "import json, os, sys\n"
    "json.dump({'argv': sys.argv[1:], 'environment': dict(os.environ), 'folder': os.getcwd()},\n"
    "          open(os.environ['SM_OUTPUT_DATA_DIR'] + '/seen.json', 'w'))\n"
)
CODE = {
    "train.py": "import os\nif 'custom' not in ' '.join(__import__('sys').argv): import vendored\n" + REPORT,
    "report.py": REPORT,
    "run.sh": '#!/bin/sh\nexec python report.py "$@"\n',
    "fail.py": "raise ValueError('it broke')\n",
    "requirements.txt": "./vendored-1.0-py3-none-any.whl\n",
}


@dataclass
class Job:
    """What the SDK asked for, and the objects it uploaded, by channel and path."""

    request: dict[str, Any]
    channels: dict[str, dict[str, bytes]]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Job]]:
    sdk = cached_environment("sagemaker-v3", [["sagemaker>=3"]])
    source = tmp_path_factory.mktemp("source")
    write_files(source, CODE)
    with zipfile.ZipFile(source / "vendored-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("vendored.py", "ANSWER = 42\n")
        wheel.writestr("vendored-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: vendored\nVersion: 1.0\n")
        wheel.writestr("vendored-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("vendored-1.0.dist-info/RECORD", "vendored.py,,\nvendored-1.0.dist-info/RECORD,,\n")
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    environ = {
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        **KEYS,
        "AWS_ENDPOINT_URL": endpoint,
        "SAGEMAKER_VALIDATE_ROLE": "false",
        "TMPDIR": str(tmp_path_factory.mktemp("temporary")),
    }
    made = subprocess.run(
        [str(sdk / "bin" / "python"), "-W", "ignore", str(SCRIPTS / "make_v3_jobs.py"), str(source)],
        env=environ,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )
    yield {
        name: Job(request, {channel["ChannelName"]: objects(client, channel) for channel in request["InputDataConfig"]})
        for name, request in json.loads(made.stdout.splitlines()[-1]).items()
    }
    server.stop()


def objects(client: Any, channel: dict[str, Any]) -> dict[str, bytes]:
    bucket, _, prefix = channel["DataSource"]["S3DataSource"]["S3Uri"].removeprefix("s3://").partition("/")
    listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    keys = [entry["Key"] for entry in listed]
    return {
        key.removeprefix(prefix).lstrip("/"): client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys
    }


@pytest.fixture(scope="module", params=["3.7", "3.11"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with Python and pip and nothing else."""
    python = find_python(request.param)
    if python is None:
        pytest.skip(f"Python {request.param} is not installed (pyenv install {request.param})")
    folder = tmp_path_factory.mktemp("image") / "environment"
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    return folder


def run(job: Job, image: Path, base: Path) -> tuple[int, str, dict[str, Any] | None]:
    """Run the job's own command with /opt/ml laid out, as a sandboxed host does."""
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        pytest.skip("bubblewrap (bwrap) is not installed: SDK v3's drivers need an absolute /opt/ml")
    channels = {name: {"TrainingInputMode": "File"} for name in job.channels}
    tree = Tree({}, job.request["HyperParameters"], channels)
    tree.lay_out(base)
    for name, files in job.channels.items():
        write_files(base / "input" / "data" / name, files)
    specification = job.request["AlgorithmSpecification"]
    command = [*specification["ContainerEntrypoint"], *specification["ContainerArguments"]]
    environ = {
        "PATH": f"{image}/bin:/usr/bin:/bin",
        "TRAINING_JOB_NAME": "v3-job",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    sandbox = [
        bubblewrap,
        "--dev-bind",
        "/",
        "/",
        "--tmpfs",
        "/opt",
        "--bind",
        str(base),
        "/opt/ml",
        "--die-with-parent",
    ]
    done = subprocess.run(
        [*sandbox, *command], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
    )
    if "bwrap:" in done.stdout.split("\n", 1)[0]:
        pytest.skip(f"bubblewrap may not make a sandbox here: {done.stdout.splitlines()[0]}")
    seen = base / "output" / "data" / "seen.json"
    return done.returncode, done.stdout, json.loads(seen.read_text()) if seen.exists() else None


ARGUMENTS = [
    "--epochs",
    "5",
    "--learning-rate",
    "0.001",
    "--name",
    "a b",
    "--flag",
    "true",
    "--betas",
    '{"first": 0.9}',
]


def test_a_script_with_requirements_runs(jobs: dict[str, Job], image: Path, tmp_path: Path) -> None:
    exit_code, output, seen = run(jobs["script"], image, tmp_path / "ml")
    assert exit_code == 0, output
    assert seen is not None
    assert sorted(seen["argv"]) == sorted(ARGUMENTS)
    assert seen["folder"] == "/opt/ml/input/data/code"
    assert seen["environment"]["SM_HP_LEARNING_RATE"] == "0.001"
    assert seen["environment"]["SM_MASTER_ADDR"] == "algo-1"


def test_a_shell_script_runs(jobs: dict[str, Job], image: Path, tmp_path: Path) -> None:
    exit_code, output, seen = run(jobs["shell"], image, tmp_path / "ml")
    assert exit_code == 0, output
    assert seen is not None
    assert sorted(seen["argv"]) == sorted(ARGUMENTS)


def test_a_custom_command_runs(jobs: dict[str, Job], image: Path, tmp_path: Path) -> None:
    exit_code, output, seen = run(jobs["command"], image, tmp_path / "ml")
    assert exit_code == 0, output
    assert seen is not None
    assert seen["argv"] == ["--custom", "a b", "algo-1"]  # the SDK splits and joins a command at its spaces


def test_a_failing_script_fails_with_the_drivers_own_failure_file(
    jobs: dict[str, Job], image: Path, tmp_path: Path
) -> None:
    exit_code, output, _ = run(jobs["failing"], image, tmp_path / "ml")
    assert exit_code == 1, output
    assert "ValueError: it broke" in output
    # The driver records its own traceback, not the script's: why it failed stands in the log alone.
    assert "returned non-zero exit status 1" in (tmp_path / "ml" / "output" / "failure").read_text()
