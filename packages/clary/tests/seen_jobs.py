"""Training jobs of a running server as tests look at them, through boto3."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_for(look: Callable[[], Any], seconds: float = 120) -> Any:
    """What `look` returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "the condition did not come about in time"
        time.sleep(0.02)
    return found


class Jobs:
    """What became of jobs; `sagemaker`, `s3` and `logs` are the server's clients, `patience` the seconds for an end."""

    patience = 120.0
    sagemaker: Any
    s3: Any
    logs: Any

    def describe(self, name: str) -> dict[str, Any]:
        return self.sagemaker.describe_training_job(TrainingJobName=name)

    def ended(self, name: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job = self.describe(name)
            return job if job["TrainingJobStatus"] in ("Completed", "Failed", "Stopped") else None

        return wait_for(look, self.patience)

    def messages(self, name: str) -> list[str]:
        group = "/aws/sagemaker/TrainingJobs"
        try:
            streams = self.logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")["logStreams"]
        except self.logs.exceptions.ResourceNotFoundException:
            return []
        return [
            event["message"]
            for stream in streams
            for event in self.logs.get_log_events(
                logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
            )["events"]
        ]

    def model_files(self, job: dict[str, Any]) -> list[str]:
        bucket, _, key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
        content = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return sorted(Path(name).name for name in tarfile.open(fileobj=io.BytesIO(content)).getnames() if name != ".")
