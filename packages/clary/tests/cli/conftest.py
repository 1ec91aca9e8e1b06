"""A real server with an empty home folder for all tests of this folder, and the `clary` command as a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Clary = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def port() -> int:
    """A port that nobody listens on."""
    return _free_port()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def plain_environment() -> Callable[..., dict[str, str]]:
    """(home, **variables) → the environment of someone who has no AWS settings."""
    return _plain_environment


def _plain_environment(home: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAGEMAKER_", "CLARY_"))}
    return {**kept, "CLARY_HOME": str(home), "SHELL": "/bin/bash", **variables}


def clary_for(home: Path, **settings: str) -> Clary:
    def clary(*arguments: str, timeout: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "clary.cli", *arguments],
            env=_plain_environment(home, **{**settings, **variables}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return clary


@pytest.fixture
def empty_home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def clary(empty_home: Path) -> Clary:
    """The command with a home folder that does not exist yet; a server that it started is stopped."""
    return clary_for(empty_home, CLARY_PORT=str(_free_port()))


@pytest.fixture(scope="session")
def served_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home folder of a server that runs."""
    home = tmp_path_factory.mktemp("home")
    port = _free_port()
    clary = clary_for(home, CLARY_PORT=str(port))
    started = clary("up", "--detach", timeout=90)
    assert started.returncode == 0, started.stderr
    yield home
    clary("down")


@pytest.fixture(scope="session")
def served(served_home: Path) -> Clary:
    """The command with a server that runs."""
    return clary_for(served_home)
