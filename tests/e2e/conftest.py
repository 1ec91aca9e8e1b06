"""One server for all end-to-end tests, and an environment of its own for each SDK, made by uv and kept between runs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from uv import find_uv_bin

from clary.images.interpreters import find

SCRIPTS = Path(__file__).parent / "scripts"
CLARY = [sys.executable, "-m", "clary.cli"]


@dataclass(frozen=True)
class Sdk:
    """What one SDK environment holds. `pythons` are tried in order."""

    name: str
    pythons: tuple[str, ...]
    requirements: tuple[str, ...]


V1 = Sdk("sagemaker-v1", ("3.8",), ("sagemaker<2", "protobuf<3.21", "pandas"))
V2 = Sdk("sagemaker-v2", ("3.12", "3.11", "3.10"), ("sagemaker>=2.245,<3", "scikit-learn"))
V3 = Sdk("sagemaker-v3", ("3.12", "3.11"), ("sagemaker>=3",))
BOTO3 = Sdk("boto3", ("3.12", "3.11"), ("boto3",))
AWS_CLI = Sdk("awscli", ("3.12", "3.11"), ("awscli<2",))


@dataclass(frozen=True)
class Server:
    """A running server, and how a user runs things against it. `settings` are variables that it was started with."""

    home: Path
    port: int
    settings: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def environment(self) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_"))}
        return {**plain, "CLARY_HOME": str(self.home), "CLARY_PORT": str(self.port), **self.settings}

    def clary(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a `clary` command."""
        return subprocess.run(
            [*CLARY, *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def run(
        self, program: Path, *arguments: str, folder: Path = SCRIPTS, timeout: float = 280, **variables: str
    ) -> str:
        """Run a program under `clary run` and return what it printed; it must succeed."""
        done = subprocess.run(
            [*CLARY, "run", "--", str(program), *arguments],
            cwd=folder,
            env={**self.environment, "SAGEMAKER_SUPPRESS_V2_WARNING": "1", "PYTHONUNBUFFERED": "1", **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"exit code {done.returncode}:\n{said[-6000:]}"
        return said


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an empty record; framework environments come from the cache that all tests share."""
    with serving(tmp_path_factory.mktemp("clary-home")) as running:
        yield running


@pytest.fixture(scope="module")
def server_on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose hosts run on a Ray cluster of two nodes."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "packages" / "clary" / "tests" / "cluster"))
    import ray_machines

    with ray_machines.running() as machines:
        nodes = [machines.add(), machines.add()]
        settings = {"CLARY_CLUSTER": f"ray:{machines.address}", "CLARY_HOST": "0.0.0.0"}
        with serving(tmp_path_factory.mktemp("clary-home"), settings) as running:
            ray_machines.wait_for(lambda: len(_nodes(running)) == len(nodes))
            yield running


def _nodes(server: Server) -> list[object]:
    return json.loads(server.clary("status", "--json").stdout)["cluster"]["nodes"]


@contextmanager
def serving(home: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server in an empty home."""
    images = Path(os.environ.get("CLARY_TEST_IMAGES_HOME", Path.home() / ".cache" / "clary-test-images"))
    images.mkdir(parents=True, exist_ok=True)
    (home / "images").symlink_to(images)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = Server(home, port, settings or {})
    started = running.clary("up", "--detach")
    assert started.returncode == 0, started.stderr
    try:
        yield running
    finally:
        running.clary("down", "--stop-jobs", "--delete-endpoints", timeout=240)


@pytest.fixture(scope="session")
def start_server() -> Callable[..., AbstractContextManager[Server]]:
    """For modules that need a server with settings of their own."""
    return serving


def sdk_environment(sdk: Sdk) -> Path:
    """The environment's bin folder; built when it is not there. Skips the test where no fitting Python is."""
    python = next((found for version in sdk.pythons if (found := find(version))), None)
    if python is None:
        pytest.skip(f"{sdk.name} needs Python {' or '.join(sdk.pythons)}, and none is here")
    root = Path(os.environ.get("CLARY_TEST_SDKS_HOME", Path.home() / ".cache" / "clary-test-sdks"))
    root.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps([str(python), sdk.requirements]).encode()).hexdigest()[:8]
    folder = root / f"{sdk.name}-{digest}"
    with (root / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            uv = find_uv_bin()
            options = ["--quiet", "--clear", "--no-project", "--python", str(python)]
            subprocess.run([uv, "venv", *options, str(folder)], check=True)
            target = ["--python", str(folder / "bin" / "python")]
            subprocess.run(
                [uv, "pip", "install", "--quiet", "--compile-bytecode", *target, *sdk.requirements], check=True
            )
            (folder / "complete").touch()
    return folder / "bin"


@pytest.fixture(scope="session")
def scripts_folder() -> Path:
    return SCRIPTS


@pytest.fixture(scope="session")
def sdk_v1() -> Path:
    return sdk_environment(V1) / "python"


@pytest.fixture(scope="session")
def sdk_v2() -> Path:
    return sdk_environment(V2) / "python"


@pytest.fixture(scope="session")
def sdk_v3() -> Path:
    return sdk_environment(V3) / "python"


@pytest.fixture(scope="session")
def boto3_python() -> Path:
    return sdk_environment(BOTO3) / "python"


@pytest.fixture(scope="session")
def aws() -> Path:
    return sdk_environment(AWS_CLI) / "aws"
