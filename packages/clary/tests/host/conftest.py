"""A host to be tested: a folder with its order, an image made with the standard library, and a server for reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clary.host import limits, network, processes
from clary.host.spec import Ending, HostReport, HostSpec, Limits, Output, Peer
from clary.storage.access import StoreAccess

SUPERVISOR = Path(__file__).with_name("run_supervisor.py")


@dataclass
class ReportServer:
    """Records reports as the real server does: each line once, in order."""

    port: int = 0
    wanted: str = "run"
    start: bool = True
    merge: bool = False
    logs: list[tuple[int, str]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    ending: Ending | None = None
    times: dict[str, float] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    _server: ThreadingHTTPServer | None = None

    def listen(self) -> None:
        """Begin, or begin again on the same port."""
        record = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Authorization"] == "Bearer token"
                answer = json.dumps(record.receive(HostReport.model_validate_json(body))).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"clary")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            disable_nagle_algorithm = True

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        """Be down: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def receive(self, report: HostReport) -> dict[str, object]:
        with self.changed:
            for line in report.logs:
                if line.sequence == len(self.logs):
                    self.logs.append((line.timestamp_ms, line.message))
                    self.times.setdefault(line.message, time.time())
            for point in report.metrics:
                if point.sequence == len(self.metrics):
                    self.metrics.append(point.model_dump())
            self.phases = [change.phase.value for change in report.phases]
            self.ending = report.ending or self.ending
            self.changed.notify_all()
            return {
                "wanted": self.wanted,
                "start": self.start,
                "merge": self.merge,
                "logs_received": len(self.logs),
                "metrics_received": len(self.metrics),
                "ending_received": self.ending is not None,
            }

    @property
    def messages(self) -> list[str]:
        return [text for _, text in self.logs]

    def wait(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, seconds), f"waited in vain: {self.phases} {self.logs[-5:]}"

    def wait_for_line(self, text: str) -> None:
        self.wait(lambda: any(text in message for message in self.messages))

    def wait_for_ending(self, seconds: float = 30) -> Ending:
        self.wait(lambda: self.ending is not None, seconds)
        assert self.ending is not None
        return self.ending


@dataclass
class Host:
    """One host under test and its supervisor process."""

    folder: Path
    spec: HostSpec
    server: ReportServer
    process: subprocess.Popen[bytes] | None = None
    command: tuple[str, ...] = (sys.executable,)

    def start(self, **environment: str) -> Host:
        (self.folder / "host.json").write_text(self.spec.model_dump_json())
        (self.folder / "host.json").chmod(0o644)
        with (self.folder / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, str(SUPERVISOR), str(self.folder)],
                env=os.environ | {"CLARY_HOST_ID": self.spec.host_id, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def run(self, seconds: float = 30, **environment: str) -> Ending:
        """Start and wait for the ending, and for the supervisor's own end."""
        self.start(**environment)
        ending = self.server.wait_for_ending(seconds)
        assert self.process is not None
        assert self.process.wait(10) == 0, self.log
        return ending

    @property
    def log(self) -> str:
        return (self.folder / "supervisor.log").read_text()

    def leftovers(self) -> list[int]:
        """What still runs of the host, its supervisor excepted."""
        own = self.process.pid if self.process is not None else 0
        return [pid for pid in processes.of_host(self.spec.host_id) if pid != own and processes.exists(pid)]


@pytest.fixture(scope="session")
def image_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with pip, as images are."""
    root = tmp_path_factory.mktemp("image") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--symlinks", str(root)], check=True)
    return root


@pytest.fixture
def server() -> Iterator[ReportServer]:
    server = ReportServer()
    server.listen()
    yield server
    server.close()


@pytest.fixture
def make_host(tmp_path: Path, server: ReportServer, image_root: Path) -> Iterator[Callable[..., Host]]:
    """Makes a host that runs a Python script: `make_host("print(1)", network_isolation=True)`."""
    hosts: list[Host] = []

    def make(script: str = "", *, server: ReportServer = server, **changes: Any) -> Host:
        name = changes.get("host", "algo-1")
        host_id = f"test-{os.getpid()}-{tmp_path.name}-{len(hosts)}-{name}".replace("_", "-")
        folder = tmp_path / f"host-{len(hosts)}"
        (folder / "opt" / "ml" / "code").mkdir(parents=True)
        (folder / "opt" / "ml" / "code" / "script.py").write_text(script)
        bounds = {"cpus": 2, "memory_bytes": 512 * 2**20, "max_runtime_seconds": 60, "stop_grace_seconds": 5}
        order: dict[str, Any] = {
            "host_id": host_id,
            "job_name": "job",
            "job_arn": f"arn:aws:sagemaker:us-east-1:000000000000:training-job/{tmp_path.name}",
            "host": "algo-1",
            "peers": (Peer(name="algo-1", instance_type="ml.m5.large", instance_group="homogeneousCluster"),),
            "image": str(image_root),
            "arguments": ("python", "/opt/ml/code/script.py"),
            "environment": {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"},
            "hyperparameters": {"epochs": "5"},
            "limits": Limits(**bounds | changes.pop("limits", {})),
            "output": Output(
                model_uri="s3://b/model.tar.gz", output_uri="s3://b/output.tar.gz", staging_uri="s3://b/s/"
            ),
            "store": StoreAccess(
                endpoint="http://127.0.0.1:1", access_key="k", secret_key="hidden", region="us-east-1"
            ),
            "report_url": f"http://127.0.0.1:{server.port}/_clary/hosts/{host_id}/report",
            "report_token": "token",
            "images_home": str(tmp_path),
        }
        host = Host(folder, HostSpec.model_validate(order | changes), server)
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        if host.process is not None and host.process.poll() is None:
            host.process.kill()
            host.process.wait()
        processes.kill_host(host.spec.host_id)
        network.clean(host.spec.host_id)
        limits.remove(host.spec.host_id)


@pytest.fixture
def servers() -> Iterator[list[ReportServer]]:
    """A record for each of two hosts."""
    servers = [ReportServer(), ReportServer()]
    for server in servers:
        server.listen()
    yield servers
    for server in servers:
        server.close()
