"""Clary as serving.py measures it: a server of its own, real endpoints, signed requests."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import numpy as np
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from clary.images.build import ensure
from clary.images.catalog import resolve_serving
from serving_targets import ServedModel, Target, ask, free_port, post

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-inference:2.21-cpu"
ROLE = "arn:aws:iam::000000000000:role/ClaryExecutionRole"
# More processors than most machines have: a replica may use all that there are, as the peers do.
INSTANCE_TYPE = "ml.m5.24xlarge"
BUCKET = "bench"
READY_DEADLINE = 180.0


class Clary:
    """A running server, and what to ask it with."""

    def __init__(self, variables: dict[str, str], python: Path) -> None:
        self.port = int(variables["AWS_ENDPOINT_URL"].rsplit(":", 1)[1].rstrip("/"))
        self.python = python
        self.serving_packages = python.parent.parent / "serving" / "current"  # OpenVINO, which only `serve` finds
        self._credentials = Credentials(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
        self._region = variables["AWS_DEFAULT_REGION"]
        session = boto3.Session(self._credentials.access_key, self._credentials.secret_key, region_name=self._region)
        address = variables["AWS_ENDPOINT_URL"]
        self._sagemaker, self._s3, self._logs = (
            session.client(name, endpoint_url=address) for name in ("sagemaker", "s3", "logs")
        )
        self._s3.create_bucket(Bucket=BUCKET)

    def upload(self, model: ServedModel) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
            tar.add(model.folder / "1", "1")
        self._s3.put_object(Bucket=BUCKET, Key=f"{model.name}/model.tar.gz", Body=archive.getvalue())

    def deploy(self, model: ServedModel, name: str) -> tuple[Target, float]:
        """An endpoint of the uploaded model, and the seconds from the first request for it to its first answer."""
        container = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/{model.name}/model.tar.gz"}
        variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": INSTANCE_TYPE}
        began = time.monotonic()
        self._sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
        self._sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[{**variant, "InitialInstanceCount": 1}]
        )
        self._sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        deadline = began + READY_DEADLINE
        while (described := self._sagemaker.describe_endpoint(EndpointName=name))["EndpointStatus"] != "InService":
            if described["EndpointStatus"] == "Failed" or time.monotonic() > deadline:
                raise SystemExit(f"{name} is {described['EndpointStatus']}: {described.get('FailureReason')}")
            time.sleep(0.02)
        target = Target("clary", self.port, lambda: self._signed(model, name), _read)
        ask(target)
        return target, time.monotonic() - began

    def settle(self, target: Target, name: str) -> str:
        """Ask until the endpoint has chosen what computes; its log's line about it."""
        deadline = time.monotonic() + READY_DEADLINE
        while time.monotonic() < deadline:
            ask(target)
            for message in self._messages(name):
                if "computes from now on" in message or "TensorFlow computes" in message:
                    return message
            time.sleep(0.2)
        raise SystemExit(f"{name} did not say what computes:\n" + "\n".join(self._messages(name)))

    def delete(self, name: str) -> None:
        self._sagemaker.delete_endpoint(EndpointName=name)
        while any(each["EndpointName"] == name for each in self._sagemaker.list_endpoints()["Endpoints"]):
            time.sleep(0.05)
        self._sagemaker.delete_endpoint_config(EndpointConfigName=name)
        self._sagemaker.delete_model(ModelName=name)

    def _messages(self, name: str) -> list[str]:
        group = f"/aws/sagemaker/Endpoints/{name}"
        streams = self._logs.describe_log_streams(logGroupName=group)["logStreams"]
        events: list[dict[str, Any]] = []
        for stream in streams:
            events += self._logs.get_log_events(
                logGroupName=group, logStreamName=stream["logStreamName"], startFromHead=True
            )["events"]
        return [event["message"] for event in events]

    def _signed(self, model: ServedModel, name: str) -> bytes:
        """A request signed now. It may be sent as often as one likes while its signature is valid."""
        path, headers = f"/endpoints/{name}/invocations", {"Content-Type": "application/json"}
        body = json.dumps({"instances": model.sample.tolist()}).encode()
        if model.images:
            headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
            packed = io.BytesIO()
            np.save(packed, model.sample)
            body = packed.getvalue()
        request = AWSRequest("POST", f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers)
        SigV4Auth(self._credentials, "sagemaker", self._region).add_auth(request)
        signed = {key: value for key, value in request.headers.items() if key not in ("Content-Type", "Host")}
        return post(self.port, path, headers["Content-Type"], body, signed)


@contextmanager
def running(folder: Path) -> Iterator[Clary]:
    """A server with a home of its own, and the image at hand: environments of images are shared between runs."""
    images = Path(os.environ.get("CLARY_TEST_IMAGES_HOME", Path.home() / ".cache" / "clary-test-images"))
    images.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "CLARY_HOME": str(folder), "CLARY_PORT": str(free_port())}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # as at a user's: sources are compiled once, not at every start
    folder.mkdir()
    (folder / "images").symlink_to(images)
    clary = [sys.executable, "-m", "clary.cli"]
    python = ensure(resolve_serving(IMAGE), images, print).python
    subprocess.run([*clary, "up", "--detach"], env=environment, check=True, capture_output=True)
    try:
        exports = subprocess.run([*clary, "env", "--json"], env=environment, check=True, capture_output=True).stdout
        yield Clary(json.loads(exports), python)
    finally:
        subprocess.run([*clary, "down", "--delete-endpoints"], env=environment, check=True, capture_output=True)


def _read(body: bytes) -> np.ndarray:
    if body.startswith(b"\x93NUMPY"):
        return np.load(io.BytesIO(body))
    return np.asarray(json.loads(body)["predictions"])
