"""How long Clary adds to a training job: request → first line of the script, and request → Completed.

One script, one 10 MB channel, one warm image. Beside it, the same script as a bare process, by `ray job submit` (on a
running local Ray) and by `mlflow run --env-manager local`. The peers live in an environment of their own.

Run: make bench NAME=job_start
"""

from __future__ import annotations

import io
import os
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import boto3

from measure import Measurement, report

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.19-cpu-py312"
RUNS = 9
PEER_RUNS = 5
SCRIPT = "import time\nprint('FIRST_LINE %.6f' % time.time(), flush=True)\n"
PEER_ENVIRONMENT = Path.home() / ".cache" / "clary-bench" / "job-start-peers"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def first_line_time(output: str) -> float:
    """The clock reading that the script printed."""
    line = next(line for line in output.splitlines() if "FIRST_LINE" in line)
    return float(line.split("FIRST_LINE", 1)[1].split()[0])


def timed(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Seconds from the start of `command` to the script's first line and to the end of the command."""
    began = time.time()
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=True
    )
    ended = time.time()
    return first_line_time(done.stdout + done.stderr) - began, ended - began


def clary_runs(folder: Path) -> tuple[list[tuple[float, float]], Path, float]:
    """(first line, Completed) of each run, the image's Python, and the server's seconds from start to ready."""
    port = free_port()
    environment = {
        **os.environ,
        "CLARY_HOME": str(folder / "home"),
        "CLARY_PORT": str(port),
    }
    images = os.environ.get("CLARY_TEST_IMAGES_HOME", str(Path.home() / ".cache" / "clary-test-images"))
    Path(images).mkdir(parents=True, exist_ok=True)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as at a user's: sources are compiled once, not at every start
    (folder / "home").mkdir()
    (folder / "home" / "images").symlink_to(images)
    clary = [sys.executable, "-m", "clary.cli"]
    first = {
        **environment,
        "CLARY_HOME": str(folder / "first-home"),
    }  # its start compiles the sources, for all later ones
    subprocess.run([*clary, "up", "--detach"], env=first, check=True, capture_output=True)
    subprocess.run([*clary, "down"], env=first, check=True, capture_output=True)
    began = time.time()
    subprocess.run([*clary, "up", "--detach"], env=environment, check=True, capture_output=True)
    ready = time.time() - began
    try:
        subprocess.run([*clary, "images", "pull", IMAGE], env=environment, check=True)
        exports = subprocess.run(
            [*clary, "env", "--json"], env=environment, check=True, capture_output=True, text=True
        ).stdout
        return _jobs(exports, environment), _image_python(Path(images)), ready
    finally:
        subprocess.run([*clary, "down"], env=environment, check=True, capture_output=True)


def _image_python(images: Path) -> Path:
    from clary.images.build import ensure
    from clary.images.catalog import resolve

    return ensure(resolve(IMAGE), images, lambda _line: None).python


def _jobs(exports: str, environment: dict[str, str]) -> list[tuple[float, float]]:
    import json

    variables = json.loads(exports)
    session = boto3.Session(
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        region_name=variables["AWS_DEFAULT_REGION"],
    )
    endpoint = variables["AWS_ENDPOINT_URL"]
    s3 = session.client("s3", endpoint_url=endpoint)
    sagemaker = session.client("sagemaker", endpoint_url=endpoint)
    logs = session.client("logs", endpoint_url=endpoint)
    bucket = "bench"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="data/ten-megabytes", Body=os.urandom(10 << 20))
    s3.put_object(Bucket=bucket, Key="source/sourcedir.tar.gz", Body=_source())
    results: list[tuple[float, float]] = []
    for run in range(RUNS + 1):
        name = f"job-start-{run}"
        began = time.time()
        sagemaker.create_training_job(
            TrainingJobName=name,
            RoleArn="arn:aws:iam::000000000000:role/ClaryExecutionRole",
            AlgorithmSpecification={"TrainingImage": IMAGE, "TrainingInputMode": "File"},
            HyperParameters={
                "sagemaker_program": '"train.py"',
                "sagemaker_submit_directory": f'"s3://{bucket}/source/sourcedir.tar.gz"',
            },
            InputDataConfig=[
                {
                    "ChannelName": "train",
                    "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{bucket}/data/"}},
                }
            ],
            OutputDataConfig={"S3OutputPath": f"s3://{bucket}/out"},
            ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            StoppingCondition={"MaxRuntimeInSeconds": 600},
        )
        while True:
            described = sagemaker.describe_training_job(TrainingJobName=name)
            if described["TrainingJobStatus"] in ("Completed", "Failed", "Stopped"):
                break
            time.sleep(0.02)
        ended = time.time()
        if described["TrainingJobStatus"] != "Completed":
            raise SystemExit(f"{name}: {described.get('FailureReason')}")
        group = "/aws/sagemaker/TrainingJobs"
        stream = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")["logStreams"][0]
        events = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True)[
            "events"
        ]
        first = first_line_time("\n".join(event["message"] for event in events))
        if run:  # the first warms caches, for everyone
            results.append((first - began, ended - began))
    return results


def _source() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("train.py")
        member.size = len(SCRIPT)
        tar.addfile(member, io.BytesIO(SCRIPT.encode()))
    return archive.getvalue()


def peer_runs(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """The same script through Ray's and MLflow's job commands."""
    bin_folder = PEER_ENVIRONMENT / "bin"
    if not (bin_folder / "mlflow").exists():
        subprocess.run(["uv", "venv", "--quiet", "--seed", str(PEER_ENVIRONMENT)], check=True)
        subprocess.run(
            ["uv", "pip", "install", "--quiet", "--python", str(bin_folder / "python"), "ray[default]", "mlflow",
             "setuptools<81"],
            check=True,
        )  # fmt: skip
    (folder / "train.py").write_text(SCRIPT)
    (folder / "MLproject").write_text(
        "name: job_start\nentry_points:\n  main:\n    command: '%s train.py'\n" % (bin_folder / "python")
    )
    path = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    results: dict[str, list[tuple[float, float]]] = {}
    mlflow = {**path, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [str(bin_folder / "mlflow"), "run", str(folder), "--env-manager", "local"]
    results["mlflow run"] = [timed(command, folder, mlflow) for _ in range(PEER_RUNS + 1)][1:]
    dashboard, head = free_port(), free_port()
    subprocess.run(
        [str(bin_folder / "ray"), "start", "--head", "--num-cpus", "2", "--port", str(head),
         "--dashboard-port", str(dashboard), "--temp-dir", str(folder / "ray")],
        check=True, env={**os.environ, **path}, capture_output=True,
    )  # fmt: skip
    try:
        submit = [str(bin_folder / "ray"), "job", "submit", "--address", f"http://127.0.0.1:{dashboard}", "--",
                  str(bin_folder / "python"), str(folder / "train.py")]  # fmt: skip
        _warm_up(lambda: timed(submit, folder, path))
        results["ray job submit"] = [timed(submit, folder, path) for _ in range(PEER_RUNS)]
    finally:
        subprocess.run([str(bin_folder / "ray"), "stop"], env={**os.environ, **path}, capture_output=True, check=False)
    return results


def _warm_up(submit: Callable[[], object]) -> None:
    """Ray refuses jobs until the agent of its node has started, which takes seconds."""
    for attempt in range(10):
        try:
            submit()
            return
        except subprocess.CalledProcessError:
            if attempt == 9:
                raise
            time.sleep(2)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clary, python, ready = clary_runs(folder)
        (folder / "train.py").write_text(SCRIPT)
        bare = [timed([str(python), "train.py"], folder) for _ in range(RUNS + 1)][1:]
        peers = peer_runs(folder)

    def median(runs: list[tuple[float, float]], which: int) -> float:
        return statistics.median(run[which] for run in runs)

    measurements: list[Measurement] = [
        Measurement("bare python: start to first line", median(bare, 0), "s"),
        Measurement("server: start to ready, new home", ready, "s", bar=2.0, ok=ready <= 2.0),
    ]
    for which, what, bar in ((0, "first line", 0.35), (1, "Completed", 1.0)):
        added = median(clary, which) - median(bare, which)
        measurements.append(Measurement(f"added before {what}", added, "s", bar=bar, ok=added <= bar))
        for name, runs in peers.items():
            theirs = median(runs, which) - median(bare, which)
            measurements.append(
                Measurement(f"added before {what}, times {name}", added / theirs, "ratio", peer=name, bar=1.0,
                            ok=added < theirs)
            )  # fmt: skip
            measurements.append(Measurement(f"{name}: added before {what}", theirs, "s", peer=name))
    report("job_start", measurements)


if __name__ == "__main__":
    main()
