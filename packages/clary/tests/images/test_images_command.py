"""`clary images`, as a person and a program use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.network


def _clary(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clary.cli", "images", *arguments, "--home", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_pull_ls_and_rm(tmp_path: Path, plain_uri: str):
    assert _clary(tmp_path, "ls").stdout == ""
    pulled = _clary(tmp_path, "pull", plain_uri, "--json")
    assert pulled.returncode == 0, pulled.stderr
    (first,) = json.loads(pulled.stdout)
    assert Path(first["root"], "bin", "train").exists()
    assert "Building" in pulled.stderr  # progress is for people, on stderr
    (listed,) = json.loads(_clary(tmp_path, "ls", "--json").stdout)
    assert listed["name"] == first["name"]
    assert listed["name"] in _clary(tmp_path, "ls").stdout
    removed = _clary(tmp_path, "rm", first["name"])
    assert removed.returncode == 0
    assert "freed" in removed.stderr
    assert json.loads(_clary(tmp_path, "ls", "--json").stdout) == []


def test_an_image_that_cannot_be_pulled_is_a_sentence_with_the_nearest(tmp_path: Path):
    answer = _clary(tmp_path, "pull", "sagemaker-tensorflow:1.10-cpu-py2")
    assert answer.returncode == 1
    assert "no wheel for Python 3.7" in answer.stderr
    assert "tensorflow-training:1.13.2-cpu-py37" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_removing_what_is_not_there_is_a_sentence(tmp_path: Path):
    answer = _clary(tmp_path, "rm", "tensorflow-2.19.1-cpu-py312", "--json")
    assert answer.returncode == 1
    assert "No image" in answer.stderr
    assert "No image" in json.loads(answer.stdout)[0]["error"]
