"""What pytest does with a test that failed: the project's conftest.py beside pytest-rerunfailures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = """
import pytest

began = []


@pytest.fixture(scope="session")
def server():
    began.append("server")
    yield began.count("server")


@pytest.fixture(scope="module")
def platform(server):
    began.append("platform")
    yield began.count("platform")


"""
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs tests that share a server as this project does; what pytest wrote."""

    def run(tests: str, *options: str) -> str:
        (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\ntimeout = 20\n")
        (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
        (tmp_path / "test_it.py").write_text(SHARED + tests)
        command = [sys.executable, "-m", "pytest", "--reruns=1", "-p", "no:cacheprovider", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    return run


def test_a_second_try_shares_nothing_with_the_first(run: Run) -> None:
    told = run("""
def test_fails_on_the_first_server(server, platform):
    assert (server, platform) == (2, 2)

def test_goes_on_with_the_second(server, platform):
    assert (server, platform) == (2, 2)
""")
    assert "2 passed, 1 rerun" in told, told


def test_a_test_that_could_not_tidy_up_is_tried_again_on_a_server_of_its_own(run: Run) -> None:
    told = run("""
@pytest.fixture
def record(server):
    yield
    assert server == 2

def test_leaves_something(record):
    pass
""")
    assert "2 passed, 1 rerun" in told, told  # each try's call passed


def test_a_second_try_that_hangs_is_ended(run: Run) -> None:
    told = run("""
import time

@pytest.mark.timeout(0.5)
def test_hangs(server):
    time.sleep(30)
""")
    assert "1 failed, 1 rerun" in told, told
    assert "Timeout (>0.5s)" in told


def test_every_test_can_be_made_to_be_tried_again(run: Run) -> None:
    tests = """
def test_leaves_something(server):
    began.append("record")
    assert server == began.count("record")
"""
    assert "1 passed in" in run(tests)
    assert "1 passed, 1 rerun" in run(tests, "--fail-first")
