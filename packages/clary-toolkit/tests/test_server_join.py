"""A script that serves TensorFlow's first host without end, and ends with it. Real TensorFlow: tests/e2e."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit_lab import SOURCE

HOOK = (SOURCE / "clary_toolkit" / "clary_toolkit_hooks.pth").read_text().splitlines()[0]
SCRIPT = (
    HOOK
    + """
from tensorflow.python.training import server_lib
server = server_lib.Server()
print("serving", flush=True)
server.join()
print("what stands behind")
"""
)


@pytest.fixture
def tensorflow(tmp_path: Path) -> Path:
    """Where a module lies that has the name of TensorFlow's servers; its join returns."""
    folder = tmp_path / "tensorflow" / "python" / "training"
    folder.mkdir(parents=True)
    (folder / "server_lib.py").write_text("class Server:\n    def join(self):\n        print('its own join')\n")
    return tmp_path


def start(tensorflow: Path, **variables: str) -> subprocess.Popen[str]:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{SOURCE}:{tensorflow}", **variables}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env=environ, stdout=subprocess.PIPE, text=True)


def test_it_ends_well_where_it_waits_when_the_first_host_has_ended(tensorflow: Path, tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    script = start(tensorflow, CLARY_MASTER_ENDED=str(ended))
    assert script.stdout
    assert script.stdout.readline() == "serving\n"
    assert script.poll() is None
    ended.touch()
    said, _ = script.communicate(timeout=30)
    assert said == "The script of the job's first host has ended: so does this one, which serves it.\n"
    assert script.returncode == 0


def test_elsewhere_a_server_is_joined_as_tensorflow_does(tensorflow: Path) -> None:
    said, _ = start(tensorflow).communicate(timeout=30)
    assert said == "serving\nits own join\nwhat stands behind\n"
