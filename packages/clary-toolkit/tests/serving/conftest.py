"""Fixtures of the model server's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from serving_lab import MODEL, RunningServer, ServingEnvironment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of the arithmetic model, for all tests of a module."""
    running = RunningServer(tmp_path_factory.mktemp("ml"), MODEL).wait_until_ready()
    yield running
    running.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers of the test's own: `start(files, variables)`."""
    running: list[RunningServer] = []

    def begin(files: dict[str, str | bytes], variables: dict[str, str] | None = None, ready: bool = True):
        server = RunningServer(tmp_path / f"ml{len(running)}", files, variables)
        running.append(server)
        return server.wait_until_ready() if ready else server

    yield begin
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingEnvironment]:
    """The newest TensorFlow as an endpoint has it."""
    from clary.images.build import ensure
    from clary.images.catalog import resolve_serving

    home = Path(os.environ.get("CLARY_TEST_IMAGES_HOME", "~/.cache/clary-test-images")).expanduser()
    image = ensure(resolve_serving("tensorflow-inference:2.21-cpu", gpu=False), home, print)
    made = ServingEnvironment(image.root, image.python, tmp_path_factory.mktemp("models"))
    command = [image.python, Path(__file__).parent / "make_models.py", made.models]
    subprocess.run(command, check=True, env={**os.environ, **made.variables}, timeout=300)
    yield made
    image.release()


@pytest.fixture(scope="session")
def zoo(environment: ServingEnvironment) -> Iterator[RunningServer]:
    """All SavedModels in one server."""
    server = environment.serve("zoo")
    yield server
    assert server.stop() == 0
