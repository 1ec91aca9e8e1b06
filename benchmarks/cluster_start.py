"""What a Ray cluster adds to the start of a job, beside the same server on one machine.

Request → first line of the script, and request → Completed; one small channel, one warm image. The Ray is one of this
machine that Clary started. Each run asks both servers in turn.

Run: make bench NAME=cluster_start
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3

from measure import Measurement, report

RUNS = 9
CODE = "import time; print('FIRST_LINE %.6f' % time.time(), flush=True)"
CLARY = [sys.executable, "-m", "clary.cli"]


class Server:
    """A server of the benchmark's own, and one job after another on it."""

    def __init__(self, home: Path, cluster: str) -> None:
        home.mkdir()
        images = Path(os.environ.get("CLARY_TEST_IMAGES_HOME", Path.home() / ".cache" / "clary-test-images"))
        images.mkdir(parents=True, exist_ok=True)
        (home / "images").symlink_to(images)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.environment = {
            **os.environ,
            "CLARY_HOME": str(home),
            "CLARY_PORT": str(port),
            "CLARY_CLUSTER": cluster,
        }
        began = time.time()
        subprocess.run([*CLARY, "up", "--detach"], env=self.environment, check=True, capture_output=True)
        self.ready_seconds = time.time() - began
        while not self.status()["nodes"]:
            time.sleep(0.2)
        keys = json.loads((home / "credentials.json").read_text())

        def client(service: str) -> Any:
            return boto3.client(
                service,
                endpoint_url=f"http://127.0.0.1:{port}",
                region_name="us-east-1",
                aws_access_key_id=keys["access_key"],
                aws_secret_access_key=keys["secret_key"],
            )

        self.sagemaker, self.s3, self.logs = client("sagemaker"), client("s3"), client("logs")
        self.s3.create_bucket(Bucket="bench")
        self.s3.put_object(Bucket="bench", Key="data/x", Body=b"x" * 10000)

    def status(self) -> dict[str, Any]:
        done = subprocess.run([*CLARY, "status", "--json"], env=self.environment, check=True, capture_output=True)
        return json.loads(done.stdout)["cluster"]

    def close(self) -> None:
        subprocess.run([*CLARY, "down"], env=self.environment, check=True, capture_output=True)

    def job(self, name: str) -> tuple[float, float]:
        """Seconds from the request to the script's first line, and to the job's end."""
        source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bench/data/"}}
        began = time.time()
        self.sagemaker.create_training_job(
            TrainingJobName=name,
            RoleArn="arn:aws:iam::000000000000:role/ClaryExecutionRole",
            AlgorithmSpecification={
                "TrainingImage": "python:3.11",
                "TrainingInputMode": "File",
                "ContainerEntrypoint": ["python", "-c", CODE],
            },
            InputDataConfig=[{"ChannelName": "train", "DataSource": source}],
            OutputDataConfig={"S3OutputPath": "s3://bench/out"},
            ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            StoppingCondition={"MaxRuntimeInSeconds": 600},
        )
        while (job := self.sagemaker.describe_training_job(TrainingJobName=name))["TrainingJobStatus"] == "InProgress":
            time.sleep(0.02)
        ended = time.time()
        if job["TrainingJobStatus"] != "Completed":
            raise SystemExit(f"{name}: {job.get('FailureReason')}")
        group = "/aws/sagemaker/TrainingJobs"
        stream = self.logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")["logStreams"][0]
        events = self.logs.get_log_events(
            logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
        )["events"]
        line = next(event["message"] for event in events if "FIRST_LINE" in event["message"])
        return float(line.split()[1]) - began, ended - began


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        servers = {kind: Server(Path(temporary) / kind, kind) for kind in ("local", "ray")}
        try:
            for server in servers.values():
                server.job("warm-up")
            runs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in servers}
            for number in range(RUNS):
                for kind, server in servers.items():
                    runs[kind].append(server.job(f"run-{number}"))
        finally:
            for server in servers.values():
                server.close()
    measurements: list[Measurement] = []
    for which, what in ((0, "first line"), (1, "Completed")):
        medians = {kind: statistics.median(run[which] for run in of_kind) for kind, of_kind in runs.items()}
        measurements += [Measurement(f"{kind}: request to {what}", seconds, "s") for kind, seconds in medians.items()]
        measurements.append(
            Measurement(f"Ray adds before {what}", medians["ray"] - medians["local"], "s", peer="local cluster")
        )
    measurements += [
        Measurement(f"{kind}: server ready", server.ready_seconds, "s") for kind, server in servers.items()
    ]
    report("cluster_start", measurements)


if __name__ == "__main__":
    main()
