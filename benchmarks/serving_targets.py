"""The servers that serving.py measures: Clary, and each peer in an environment of its own, with one model each.

Every server gets the same SavedModel and the threads that it chooses by itself: one process computes, with TensorFlow's
(or OpenVINO's) threads on all processors. More workers would only share the same processors. Nobody writes a line a
request: access logs are off.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from uv import find_uv_bin

from clary.images.interpreters import find_or_install, uv_environment

APPS = Path(__file__).parent / "serving_peers"
ENVIRONMENTS = Path.home() / ".cache" / "clary-bench"
TENSORFLOW = "tensorflow-cpu==2.21.*"
PACKAGES = {
    "plain": (),
    "litserve": ("litserve", "python-multipart"),
    "bentoml": ("bentoml",),
    "ray": ("ray[serve]",),
    "mlserver": ("mlserver", "uvloop<0.22"),  # its workers end with a later uvloop, which makes no event loop unasked
}
PEERS = ("litserve", "bentoml", "ray", "mlserver")
START_DEADLINE = 300.0


@dataclass(frozen=True)
class ServedModel:
    """A model of the benchmark: its folder (1/ is the SavedModel), a batch of one, and TensorFlow's answer to it."""

    name: str
    folder: Path
    sample: np.ndarray
    expected: np.ndarray

    @property
    def images(self) -> bool:
        return self.sample.ndim == 4


@dataclass(frozen=True)
class Target:
    """A server to ask: what to send to which port, how to read the numbers of an answer, and its process group."""

    name: str
    port: int
    request: Callable[[], bytes]
    read: Callable[[bytes], np.ndarray]
    group: int | None = None


def python_of(name: str) -> Path:
    """The Python of a peer's environment, made when it is missing."""
    folder = ENVIRONMENTS / f"serving-{name}"
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        base = find_or_install("3.12", print)
        uv = [find_uv_bin(), "--quiet"]
        subprocess.run([*uv, "venv", "--clear", "--python", base, folder], check=True, env=uv_environment())
        install = [*uv, "pip", "install", "--python", python, TENSORFLOW, *PACKAGES[name]]
        subprocess.run(install, check=True, env=uv_environment())
        (folder / "made").touch()
    return python


def make_models(names: list[str], folder: Path) -> list[ServedModel]:
    """Make the models with plain TensorFlow."""
    subprocess.run([python_of("plain"), APPS / "models.py", folder, *names], check=True, env=quiet())
    return [
        ServedModel(name, folder / name, *(np.load(folder / name / f"{part}.npy") for part in ("sample", "expected")))
        for name in names
    ]


def quiet(**more: str) -> dict[str, str]:
    """The environment of a process that computes with TensorFlow: without its start-up messages, on processors only."""
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", **more}


def post(port: int, path: str, content_type: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of an HTTP request."""
    named = {"Host": f"127.0.0.1:{port}", "Content-Type": content_type, "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**named, **(headers or {})}.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def ask(target: Target) -> np.ndarray:
    """The numbers of one answer."""
    with socket.create_connection(("127.0.0.1", target.port), timeout=60) as connection:
        connection.sendall(target.request())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        body = answer.read()
        if answer.status != 200:
            raise ConnectionError(f"{target.name} answered {answer.status}: {body[:300]!r}")
        return target.read(body)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def peer(name: str, model: ServedModel, folder: Path) -> Iterator[Target]:
    """A peer that serves the model. It may still be starting: see `wait_for`."""
    port, bin_folder = free_port(), python_of(name).parent
    folder.mkdir(parents=True)
    command = _command(name, port, bin_folder, folder)
    environment = quiet(
        BENCH_MODEL=str(model.folder),
        BENCH_IMAGES=str(int(model.images)),
        BENCH_PORT=str(port),
        BENTOML_HOME=str(folder / "bentoml"),
        BENTOML_DO_NOT_TRACK="True",
        RAY_USAGE_STATS_ENABLED="0",
        RAY_raylet_start_wait_time_s="150",  # these two for a busy machine
        RAY_agent_register_timeout_ms="150000",
        PATH=f"{bin_folder}:{os.environ['PATH']}",
        PYTHONPATH=str(APPS),
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield Target(name, port, _request(name, port, model), _reader(name, model), process.pid)
    finally:
        _stop(process)


@contextmanager
def held(servers: Iterable[Target]) -> Iterator[None]:
    """The servers stand still meanwhile: some use the processors while nobody asks them anything."""
    groups = [server.group for server in servers if server.group is not None]
    for group in groups:
        os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        for group in groups:
            os.killpg(group, signal.SIGCONT)


def wait_for(target: Target, folder: Path) -> None:
    """Wait until a peer answers."""
    deadline = time.monotonic() + START_DEADLINE
    while True:
        try:
            ask(target)
        except (ConnectionError, http.client.HTTPException, TimeoutError) as error:
            if time.monotonic() > deadline:
                said = (folder / "log").read_text(errors="replace")[-2000:]
                raise SystemExit(f"{target.name} did not start within {START_DEADLINE:g} s: {error}\n{said}") from None
            time.sleep(0.2)
        else:
            return


def _command(name: str, port: int, bin_folder: Path, folder: Path) -> list[str]:
    if name == "litserve":
        return [str(bin_folder / "python"), str(APPS / "litserve_app.py")]
    if name == "bentoml":
        place = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(APPS)]
        return [str(bin_folder / "bentoml"), "serve", "bento_app:Model", *place]
    if name == "ray":
        return [str(bin_folder / "python"), str(APPS / "ray_app.py")]
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "debug": False, **ports}))
    batching = {"name": "model", "implementation": "mlserver_app.Model", "max_batch_size": 16, "max_batch_time": 0.001}
    (folder / "model-settings.json").write_text(json.dumps(batching))
    return [str(bin_folder / "mlserver"), "start", str(folder)]


def _request(name: str, port: int, model: ServedModel) -> Callable[[], bytes]:
    row = model.sample[0]
    if name == "mlserver":
        element = {"name": "input", "shape": list(model.sample.shape), "datatype": "FP32", "data": row.ravel().tolist()}
        if model.images:
            encoded = base64.b64encode(row.tobytes()).decode()
            element = {"name": "input", "shape": [1, 1], "datatype": "BYTES", "data": [encoded]}
        body, path, kind = json.dumps({"inputs": [element]}).encode(), "/v2/models/model/infer", "application/json"
    elif not model.images:
        document = {"batch": [row.tolist()]} if name == "bentoml" else {"input": row.tolist()}
        body, path, kind = json.dumps(document).encode(), "/predict", "application/json"
    elif name == "litserve":
        head = b'--clary\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n'
        body = head + b"Content-Type: application/octet-stream\r\n\r\n" + row.tobytes() + b"\r\n--clary--\r\n"
        path, kind = "/predict", "multipart/form-data; boundary=clary"
    else:
        body, path, kind = row.tobytes(), "/predict", "application/octet-stream"
    sent = post(port, path, kind, body)
    return lambda: sent


def _reader(name: str, model: ServedModel) -> Callable[[bytes], np.ndarray]:
    def read(body: bytes) -> np.ndarray:
        if model.images and name != "mlserver":
            return np.frombuffer(body, np.float32)
        document = json.loads(body)
        if name == "mlserver":
            data = document["outputs"][0]["data"]
            return np.frombuffer(base64.b64decode(data[0]), np.float32) if model.images else np.asarray(data)
        return np.asarray(document["output"] if isinstance(document, dict) else document)

    return read


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a peer and the processes that it started, which are its session's."""
    for way, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        try:
            os.killpg(process.pid, way)
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


class BareLoop:
    """A model without a server, in a process of its own."""

    def __init__(self, python: Path, engine: str, model: ServedModel, packages: Path | None = None) -> None:
        began = time.monotonic()
        command = [python, APPS / "bare_loop.py", engine, model.folder]
        environment = quiet(**({"PYTHONPATH": str(packages)} if packages else {}))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        self._line()
        self.load_seconds = time.monotonic() - began

    def measure(self, seconds: float, rows: int) -> dict[str, float]:
        """Milliseconds p50 and p99 of a call with `rows` rows, and rows a second."""
        assert self._process.stdin
        self._process.stdin.write(f"{seconds} {rows}\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the bare loop ended: {' '.join(map(str, self._process.args))}")  # type: ignore[arg-type]
        return line
