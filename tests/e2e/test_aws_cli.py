"""The AWS command line: under `clary run`, and by the profile that `clary configure` writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server


pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_the_cli_knows_who_it_is(server: Server, aws: Path) -> None:
    said = json.loads(server.run(aws, "sts", "get-caller-identity"))
    assert said["Arn"] == "arn:aws:sts::000000000000:assumed-role/ClaryExecutionRole/clary"


def test_files_go_to_s3_and_come_back(server: Server, aws: Path, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000  # over 8 MB, so that the CLI sends it in parts
    (tmp_path / "big.bin").write_bytes(content)
    server.run(aws, "s3", "mb", "s3://from-cli")
    server.run(aws, "s3", "cp", str(tmp_path / "big.bin"), "s3://from-cli/folder/big.bin")
    assert "big.bin" in server.run(aws, "s3", "ls", "s3://from-cli/folder/")
    server.run(aws, "s3", "sync", "s3://from-cli/folder", str(tmp_path / "back"))
    assert (tmp_path / "back" / "big.bin").read_bytes() == content


def test_training_jobs_can_be_listed_and_an_unknown_one_is_an_error(server: Server, aws: Path) -> None:
    assert "TrainingJobSummaries" in json.loads(server.run(aws, "sagemaker", "list-training-jobs"))
    done = server.clary("run", "--", str(aws), "sagemaker", "describe-training-job", "--training-job-name", "nobody")
    assert done.returncode in (254, 255)  # versions 2 and 1 of the command line
    assert "Requested resource not found." in done.stderr


def test_the_profile_works_without_clary_run(server: Server, aws: Path, tmp_path: Path) -> None:
    files = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    environment = {**server.environment, **files}
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n")
    written = subprocess.run(
        [sys.executable, "-m", "clary.cli", "configure"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert written.returncode == 0, written.stderr
    done = subprocess.run(
        [aws, "--profile", "clary", "s3", "ls"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "sagemaker-us-east-1-000000000000" in done.stdout
    assert "region = eu-west-1" in (tmp_path / "config").read_text()


def test_the_exports_of_clary_env_serve_a_shell(server: Server, aws: Path) -> None:
    exports = f'eval "$({sys.executable} -m clary.cli env --shell bash)"'
    script = f"{exports} && {aws} sts get-caller-identity --query Account --output text"
    done = subprocess.run(
        ["bash", "-c", script], env=server.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.strip() == "000000000000", done.stderr
