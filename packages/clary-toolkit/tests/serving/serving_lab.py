"""The laboratory of the model server's tests: servers as processes, and a client for their sockets."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit_lab import PASSED_ON, SOURCE, write_files

if TYPE_CHECKING:
    from collections.abc import Mapping

FAKE = Path(__file__).parent / "fake_server.py"


class Answer:
    """What came back."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return self.json()["error"]


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class RunningServer:
    """A `serve` process of the files below /opt/ml; `files` are written to `base`."""

    def __init__(
        self,
        base: Path,
        files: Mapping[str, str | bytes],
        variables: Mapping[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, str(FAKE)),
    ) -> None:
        (base / "model").mkdir(parents=True, exist_ok=True)
        write_files(base, files)
        self.socket = tempfile.mktemp(prefix="serve-", suffix=".sock")  # short: a socket's path may have 107 characters
        self.log_file = base / "log"
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment.update(
            {
                "SAGEMAKER_BASE_DIR": str(base),
                "CLARY_SERVE_SOCKET": self.socket,
                "PYTHONPATH": str(SOURCE),
                "PYTHONDONTWRITEBYTECODE": "1",
                "CUDA_VISIBLE_DEVICES": "",
                **(variables or {}),
            }
        )
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=base, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self.open: Connection | None = None

    def wait_until_ready(self, seconds: float = 60) -> RunningServer:
        """Until /ping says so, or the process has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.ask("GET", "/ping").status == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"The server is not ready: {self.log}")

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def connect(self) -> Connection:
        return Connection(self.socket)

    def ask(self, method: str, path: str, body: bytes | str | None = None, **headers: str) -> Answer:
        """One request on a connection of its own; header names with _ for -."""
        connection = self.connect()
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def invoke(self, body: object, content_type: str = "application/json", **headers: str) -> Answer:
        """POST /invocations; what is not str or bytes is sent as JSON."""
        content = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return self.ask("POST", "/invocations", content, Content_Type=content_type, **headers)

    def raw(self, content: bytes) -> bytes:
        """Everything the server answers to these bytes until it closes."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(self.socket)
            sock.sendall(content)
            received = b""
            while True:
                part = sock.recv(65536)
                if not part:
                    return received
                received += part

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            Path(self.socket).unlink(missing_ok=True)


class ServingEnvironment:
    """An environment that serves with OpenVINO and gRPC, and the models that make_models.py has made in it."""

    def __init__(self, root: Path, python: Path, models: Path) -> None:
        self.python = python
        self.models = models
        self.packages = root / "serving" / "current"
        self.variables = {
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "",
            "CLARY_SERVING_PACKAGES": str(self.packages),
            "CLARY_SERVING_GRPC_PORT": "0",
        }

    def serve(self, name: str, files: Mapping[str, str | bytes] | None = None, **variables: str) -> RunningServer:
        """A server of the models in the folder `name`, with further files."""
        command = (str(self.python), "-c", _SERVE)
        server = RunningServer(self.models / name, files or {}, {**self.variables, **variables}, command)
        return server.wait_until_ready(240)

    def case(self, name: str) -> dict[str, Any]:
        """A request and what Keras answers."""
        return json.loads((self.models / f"{name}.json").read_text())


_SERVE = "import sys; from clary_toolkit.serving.server import main; sys.exit(main())"
MODEL = {"model/1/saved_model.pb": b""}
