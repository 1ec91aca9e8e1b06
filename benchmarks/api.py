"""How many DescribeTrainingJob and ListTrainingJobs requests a second the API answers with 10,000 jobs recorded.

Beside it moto's server with as many jobs, asked by the same client: real HTTP, requests signed with SigV4 (beforehand,
so that the client costs little), connections kept open where the server allows it. Clary checks the signatures, moto
does not. Then Clary again while hosts report logs.

Run: make bench NAME=api
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from measure import Measurement, report

JOBS = 10_000
CONNECTIONS = 4
ROUND_SECONDS = 1.0
ROUNDS = 9
BAR = 3.0
HOSTS, REPORTS_PER_SECOND, LINES_PER_REPORT = 8, 4, 25
REQUEST: dict[str, Any] = {
    "HyperParameters": {"epochs": "3", "learning_rate": "0.01", "sagemaker_program": '"train.py"'},
    "AlgorithmSpecification": {
        "TrainingImage": "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.19-cpu-py312",
        "TrainingInputMode": "File",
        "MetricDefinitions": [{"Name": "loss", "Regex": "loss: ([0-9.]+)"}],
    },
    "RoleArn": "arn:aws:iam::000000000000:role/ClaryExecutionRole",
    "InputDataConfig": [
        {
            "ChannelName": "train",
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://bucket/train"}},
        }
    ],
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/output", "KmsKeyId": ""},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
    "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
}

MOTO = """
import sys
from moto.sagemaker.models import sagemaker_backends
from moto.server import main
import json
count, port, request = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
backend = sagemaker_backends["123456789012"]["us-east-1"]
for number in range(count):
    backend.create_training_job(
        training_job_name=f"job-{number:05}", hyper_parameters=request["HyperParameters"],
        algorithm_specification=dict(request["AlgorithmSpecification"]), role_arn=request["RoleArn"],
        input_data_config=request["InputDataConfig"], output_data_config=dict(request["OutputDataConfig"]),
        resource_config=request["ResourceConfig"], vpc_config=None, stopping_condition=request["StoppingCondition"],
        tags=[], enable_network_isolation=False, enable_inter_container_traffic_encryption=False,
        enable_managed_spot_training=False, checkpoint_config=None, debug_hook_config=None,
        debug_rule_configurations=None, tensor_board_output_config=None, experiment_config=None)
main(["-p", port])
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def signed(port: int, credentials: Credentials, operation: str, params: dict[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    headers = {
        "Host": f"127.0.0.1:{port}",
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": f"SageMaker.{operation}",
    }
    body = json.dumps(params).encode()
    request = AWSRequest("POST", f"http://127.0.0.1:{port}/", headers, body)
    SigV4Auth(credentials, "sagemaker", "us-east-1").add_auth(request)
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST / HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """One connection that is kept for as long as the server keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def exchange(self, request: bytes) -> bytes:
        """Send a request and return the response's body; raises when the status is not 200."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        head, body = self._read_head(b"")
        lowered = head.lower()
        length = int(lowered.partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(1 << 18)
        if b" 200 " not in head[:20]:
            raise RuntimeError((head + body).decode())
        if lowered.startswith(b"http/1.0") or b"connection: close" in lowered:
            self._socket.close()
            self._socket = None
        return body

    def _read_head(self, data: bytes) -> tuple[bytes, bytes]:
        assert self._socket is not None
        while b"\r\n\r\n" not in data:
            part = self._socket.recv(1 << 18)
            if not part:
                raise RuntimeError("the server closed the connection within a response")
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        return head, body


def rate(port: int, requests: list[bytes]) -> float:
    """Requests a second over several connections, each sending its next request when it has its answer."""
    ends = time.perf_counter() + ROUND_SECONDS
    counts = [0] * CONNECTIONS

    def ask(number: int) -> None:
        connection = Connection(port)
        for request in cycle(requests[number::CONNECTIONS]):
            connection.exchange(request)
            counts[number] += 1
            if time.perf_counter() > ends:
                return

    started = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Generator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def wait_until_answers(port: int, request: bytes, log: Path) -> bytes:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            return Connection(port).exchange(request)
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the server on port {port} does not answer:\n{log.read_text()[-4000:]}")


def record_jobs(url: str) -> list[tuple[str, str]]:
    """Write the finished jobs into Clary's record, and hosts that are to report; returns (host id, token) of each."""
    from clary.state import migrate
    from clary.state.database import Database, now
    from clary.state.training_jobs import TrainingHost, TrainingJob, hash_token

    migrate.upgrade(url)
    database = Database(url)
    transition = {
        "Status": "Completed",
        "StartTime": 1.7e9,
        "EndTime": 1.7e9 + 60,
        "StatusMessage": "Training job completed",
    }
    with database.transaction() as session:
        for number in range(JOBS):
            name = f"job-{number:05}"
            session.add(
                TrainingJob(
                    name=name,
                    arn=f"arn:aws:sagemaker:us-east-1:000000000000:training-job/{name}",
                    status="Completed",
                    secondary_status="Completed",
                    creation_time=now(),
                    last_modified_time=now(),
                    training_start_time=now(),
                    training_end_time=now(),
                    model_artifact=f"s3://bucket/output/{name}/output/model.tar.gz",
                    request={"TrainingJobName": name, **REQUEST},
                    transitions=[transition] * 5,
                    final_metrics=[{"MetricName": "loss", "Value": 0.1, "Timestamp": 1.7e9}],
                    stage="settled",
                )
            )
        session.flush()
        for number in range(HOSTS):
            session.add(
                TrainingHost(
                    host_id=f"host-{number}",
                    job_id=1,
                    job_name="job-00000",
                    attempt=1,
                    position=number,
                    name=f"algo-{number + 1}",
                    instance_type="ml.m5.large",
                    instance_group="homogeneousCluster",
                    node="local",
                    cpus=1,
                    memory_bytes=1,
                    token_hash=hash_token(f"token-{number}"),
                    log_stream=f"job-00000/algo-{number + 1}-1",
                    created_time=now(),
                    released=True,
                )
            )
    database.close()
    return [(f"host-{number}", f"token-{number}") for number in range(HOSTS)]


@contextmanager
def reporting(port: int, hosts: list[tuple[str, str]]) -> Generator[Callable[[], int]]:
    """Hosts that report lines of their logs, each four times a second; yields how many reports were answered."""
    ended = threading.Event()
    answered = [0] * len(hosts)
    phases = [{"phase": "Training", "timestamp": "2026-01-01T00:00:00Z"}]

    def work(number: int, host_id: str, token: str) -> None:
        connection = Connection(port)
        sequence = 0
        while not ended.wait(1 / REPORTS_PER_SECOND):
            lines = [
                {
                    "sequence": sequence + line,
                    "timestamp_ms": int(time.time() * 1000),
                    "message": f"step {line} loss: 0.5",
                }
                for line in range(LINES_PER_REPORT)
            ]
            body = json.dumps({"host_id": host_id, "phases": phases, "logs": lines}).encode()
            head = (
                f"POST /_clary/hosts/{host_id}/report HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            sequence = json.loads(connection.exchange(head.encode() + body))["logs_received"]
            answered[number] += 1

    threads = [threading.Thread(target=work, args=(number, *host)) for number, host in enumerate(hosts)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: sum(answered)
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@contextmanager
def clary_server(folder: Path) -> Iterator[tuple[int, Credentials, list[tuple[str, str]]]]:
    from clary.front.credentials import CredentialStore
    from clary.settings import Settings

    port, home = free_port(), folder / "home"
    home.mkdir()
    hosts = record_jobs(f"sqlite:///{home / 'clary.db'}")
    root = CredentialStore(home, Settings(home=home)).root
    credentials = Credentials(root.access_key, root.secret_key)
    log = folder / "clary.log"
    with running([sys.executable, "-m", "clary.server"], {"CLARY_HOME": str(home), "CLARY_PORT": str(port)}, log):
        body = wait_until_answers(
            port, signed(port, credentials, "DescribeTrainingJob", {"TrainingJobName": "job-00001"}), log
        )
        assert json.loads(body)["HyperParameters"] == REQUEST["HyperParameters"]
        yield port, credentials, hosts


@contextmanager
def moto_server(folder: Path) -> Iterator[tuple[int, Credentials]]:
    port = free_port()
    credentials = Credentials("AKIDEXAMPLE", "secret")
    log = folder / "moto.log"
    with running([sys.executable, "-c", MOTO, str(JOBS), str(port), json.dumps(REQUEST)], {}, log):
        request = signed(port, credentials, "DescribeTrainingJob", {"TrainingJobName": f"job-{JOBS - 1:05}"})
        assert json.loads(wait_until_answers(port, request, log))["HyperParameters"] == REQUEST["HyperParameters"]
        yield port, credentials


def requests_of(port: int, credentials: Credentials) -> dict[str, list[bytes]]:
    names = [f"job-{number * 7919 % JOBS:05}" for number in range(400)]
    return {
        "DescribeTrainingJob": [
            signed(port, credentials, "DescribeTrainingJob", {"TrainingJobName": name}) for name in names
        ],
        "ListTrainingJobs": [signed(port, credentials, "ListTrainingJobs", {"MaxResults": 10})] * 40,
    }


def by_name_part(port: int, credentials: Credentials) -> list[bytes]:
    """Lists that look for a part of the name in all jobs. moto has no peer to it: it looks in its first page only."""
    parts = [f"{number * 7919 % JOBS:04}" for number in range(400)]
    return [signed(port, credentials, "ListTrainingJobs", {"MaxResults": 10, "NameContains": part}) for part in parts]


def main() -> None:
    measurements: list[Measurement] = []
    with (
        tempfile.TemporaryDirectory(prefix="clary-bench-") as name,
        clary_server(Path(name)) as (clary_port, keys, hosts),
        moto_server(Path(name)) as (moto_port, moto_keys),
    ):
        ours, theirs = requests_of(clary_port, keys), requests_of(moto_port, moto_keys)
        for operation in theirs:
            pairs = [(rate(clary_port, ours[operation]), rate(moto_port, theirs[operation])) for _ in range(ROUNDS)]
            clary, moto = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for one, other in pairs)
            measurements += [
                Measurement(f"{operation}, Clary", clary, "requests/s"),
                Measurement(f"{operation}, moto", moto, "requests/s", "moto"),
                Measurement(f"{operation}, Clary over moto", ratio, "x", "moto", BAR, ratio >= BAR),
            ]
        searching = statistics.median(rate(clary_port, by_name_part(clary_port, keys)) for _ in range(ROUNDS))
        measurements.append(Measurement("ListTrainingJobs NameContains, Clary", searching, "requests/s"))
        quiet, busy, answered = [], [], 0
        for _ in range(ROUNDS):
            quiet.append(rate(clary_port, ours["DescribeTrainingJob"]))
            with reporting(clary_port, hosts) as count:
                busy.append(rate(clary_port, ours["DescribeTrainingJob"]))
                answered += count()
        kept = statistics.median(with_ / without for with_, without in zip(busy, quiet, strict=True))
        per_second = answered / (ROUNDS * ROUND_SECONDS)
        measurements += [
            Measurement(f"reports a second of {HOSTS} hosts, {LINES_PER_REPORT} lines each", per_second, "reports/s"),
            Measurement(
                "DescribeTrainingJob while they report, of its rate without", kept, "x", None, 0.7, kept >= 0.7
            ),
        ]
    report("api", measurements)


if __name__ == "__main__":
    main()
