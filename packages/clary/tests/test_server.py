"""A real server on a free port, asked by real clients."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.client import Config
from botocore.exceptions import ClientError

READY_SECONDS = 30
BUCKET = "sagemaker-us-east-1-000000000000"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Server:
    home: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, service, **options):
        keys = json.loads((self.home / "credentials.json").read_text())
        arguments = {
            "endpoint_url": self.url,
            "region_name": "us-east-1",
            "aws_access_key_id": keys["access_key"],
            "aws_secret_access_key": keys["secret_key"],
            "config": Config(retries={"total_max_attempts": 1}),
        }
        return boto3.client(service, **{**arguments, **options})


def launch(home: Path, port: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "CLARY_HOME": str(home), "CLARY_PORT": str(port)}
    return subprocess.Popen([sys.executable, "-m", "clary.server"], env=environment, stderr=subprocess.PIPE)


def start(home: Path, port: int) -> Server:
    process = launch(home, port)
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            if json.loads((home / "server.json").read_text())["pid"] == process.pid:
                return Server(home, port, process)
        time.sleep(0.02)
    process.kill()
    raise AssertionError((home / "server.log").read_text() if (home / "server.log").exists() else "no log")


def stop(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = start(tmp_path_factory.mktemp("home"), free_port())
    yield running
    stop(running)


def refusal(call) -> dict:
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value.response


def test_json_1_1(server):
    assert server.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []
    error = refusal(lambda: server.client("sagemaker").describe_training_job(TrainingJobName="no-such-job"))
    assert error["Error"]["Code"] == "ValidationException"
    assert error["Error"]["Message"] == "Requested resource not found."
    assert error["ResponseMetadata"]["RequestId"]


def test_json_1_0(server):
    cloudwatch = server.client("cloudwatch")
    cloudwatch.put_metric_data(Namespace="n", MetricData=[{"MetricName": "m", "Value": 1.5}])
    assert [metric["MetricName"] for metric in cloudwatch.list_metrics(Namespace="n")["Metrics"]] == ["m"]


def test_query(server):
    assert server.client("sts").get_caller_identity()["Account"] == "000000000000"
    role = server.client("iam").get_role(RoleName="ClaryExecutionRole")["Role"]
    assert role["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["Service"] == "sagemaker.amazonaws.com"


def test_rest_json(server):
    error = refusal(lambda: server.client("sagemaker-runtime").invoke_endpoint(EndpointName="e", Body=b"x"))
    assert error["Error"]["Code"] in ("UnsupportedOperation", "ValidationError")


def test_s3_on_the_same_port(server):
    s3 = server.client("s3")
    s3.put_object(Bucket=BUCKET, Key="a/b c.txt", Body=b"hello")
    assert s3.get_object(Bucket=BUCKET, Key="a/b c.txt")["Body"].read() == b"hello"
    url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "a/b c.txt"})
    with urllib.request.urlopen(url, timeout=10) as reply:
        assert reply.read() == b"hello"


def test_a_wrong_secret_is_refused(server):
    error = refusal(lambda: server.client("sagemaker", aws_secret_access_key="wrong").list_training_jobs())
    assert error["Error"]["Code"] == "InvalidSignatureException"


def test_an_assumed_role_may_ask_too(server):
    role = "arn:aws:iam::123456789012:role/Trainer"
    keys = server.client("sts").assume_role(RoleArn=role, RoleSessionName="me")["Credentials"]
    sts = server.client(
        "sts",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    assert sts.get_caller_identity()["Arn"] == "arn:aws:sts::123456789012:assumed-role/Trainer/me"


def test_health_says_where_the_server_is(server):
    with urllib.request.urlopen(f"{server.url}/_clary/health", timeout=10) as reply:
        health = json.loads(reply.read())
    assert (health["status"], health["store"], health["region"]) == ("ready", "ready", "us-east-1")


def test_a_report_without_a_token_is_refused(server):
    request = urllib.request.Request(f"{server.url}/_clary/hosts/h/report", data=b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=10)


def test_silent_clients_keep_nobody_waiting(server):
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    try:
        for connection in silent[:100]:
            connection.send(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nX-Amz-Target: SageMaker.Search\r\n\r\nab"
            )
        assert server.client("sts").get_caller_identity()
    finally:
        for connection in silent:
            connection.close()


def test_garbage_is_no_request(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_a_home_has_one_server(server):
    second = launch(server.home, free_port())
    _, told = second.communicate(timeout=30)
    assert second.returncode == 1
    assert b"another Clary runs with the home folder" in told


def test_a_taken_port_is_told(server, tmp_path):
    second = launch(tmp_path / "home", server.port)
    _, told = second.communicate(timeout=30)
    assert second.returncode == 1
    assert f"port {server.port} of 127.0.0.1 cannot be used".encode() in told


@pytest.mark.slow
def test_the_server_ends_in_order_and_comes_back(tmp_path):
    first = start(tmp_path, free_port())
    first.client("s3").put_object(Bucket=BUCKET, Key="kept", Body=b"kept")
    first.client("cloudwatch").put_metric_data(Namespace="n", MetricData=[{"MetricName": "kept", "Value": 1}])
    stop(first)
    assert first.process.returncode == 0, first.process.stderr.read()
    assert not (tmp_path / "server.json").exists()
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]
    again = start(tmp_path, first.port)
    try:
        assert again.client("s3").get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"kept"
        assert len(again.client("cloudwatch").list_metrics(Namespace="n")["Metrics"]) == 1
    finally:
        stop(again)
