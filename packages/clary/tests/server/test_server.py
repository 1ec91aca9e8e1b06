"""A real server on a free port, asked by real clients."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request

import psutil
import pytest
from botocore.exceptions import ClientError

BUCKET = "sagemaker-us-east-1-000000000000"


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


def test_a_home_has_one_server(server, launch, free_port):
    second = launch(server.home, free_port())
    _, told = second.communicate(timeout=30)
    assert second.returncode == 1
    assert b"another Clary runs with the home folder" in told


def test_a_taken_port_is_told(server, launch, tmp_path):
    second = launch(tmp_path / "home", server.port)
    _, told = second.communicate(timeout=30)
    assert second.returncode == 1
    assert f"port {server.port} of 127.0.0.1 cannot be used".encode() in told


@pytest.mark.slow
def test_the_server_ends_in_order_and_comes_back(start, tmp_path):
    first = start(tmp_path)
    first.client("s3").put_object(Bucket=BUCKET, Key="kept", Body=b"kept")
    first.client("cloudwatch").put_metric_data(Namespace="n", MetricData=[{"MetricName": "kept", "Value": 1}])
    first.stop()
    assert first.process.returncode == 0, first.process.stderr.read()
    assert not (tmp_path / "server.json").exists()
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]
    again = start(tmp_path, first.port)
    assert again.client("s3").get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"kept"
    assert len(again.client("cloudwatch").list_metrics(Namespace="n")["Metrics"]) == 1
