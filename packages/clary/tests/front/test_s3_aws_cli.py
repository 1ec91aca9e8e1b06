"""The AWS CLI, in an environment of its own, against the real front and store."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.network]

Aws = Callable[..., str]


@pytest.fixture(scope="module")
def aws(s3_front: Any, tmp_path_factory: pytest.TempPathFactory) -> Aws:
    folder = tmp_path_factory.mktemp("aws-cli")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    installed = subprocess.run([*uv, "pip", "install", "--quiet", "-p", str(folder), "awscli"], check=False)
    if installed.returncode:
        pytest.skip("needs the package awscli, which could not be installed")
    root = s3_front.credentials.root
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "AWS_ENDPOINT_URL": s3_front.url,
        "AWS_ACCESS_KEY_ID": root.access_key,
        "AWS_SECRET_ACCESS_KEY": root.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "HOME": str(folder),
    }

    def run(*words: str) -> str:
        command = [str(folder / "bin" / "python"), str(folder / "bin" / "aws"), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_files_and_folders_go_both_ways(aws: Aws, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    (source / "deep").mkdir(parents=True)
    content = os.urandom(20 << 20)
    (source / "big.bin").write_bytes(content)
    (source / "deep" / "ö b.txt").write_text("hello")
    aws("s3", "mb", "s3://by-cli")
    aws("s3", "cp", "--quiet", "--recursive", str(source), "s3://by-cli/data/")
    assert "big.bin" in aws("s3", "ls", "s3://by-cli/data/")
    aws("s3", "sync", "--quiet", "s3://by-cli/data", str(back))
    assert (back / "big.bin").read_bytes() == content
    assert (back / "deep" / "ö b.txt").read_text() == "hello"
    aws("s3", "mv", "--quiet", "s3://by-cli/data/big.bin", "s3://by-cli/moved.bin")
    link = aws("s3", "presign", "s3://by-cli/moved.bin").strip()
    with urllib.request.urlopen(link) as response:
        assert len(response.read()) == len(content)
    aws("s3", "rb", "--force", "s3://by-cli")
    assert "by-cli" not in aws("s3", "ls")


def test_encrypted_uploads_and_low_level_calls_work(aws: Aws, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("x")
    aws("s3api", "create-bucket", "--bucket", "by-cli-api")
    aws("s3", "cp", "--quiet", "--sse", "aws:kms", str(file), "s3://by-cli-api/k")
    assert "aws:kms" in aws("s3api", "head-object", "--bucket", "by-cli-api", "--key", "k")
    assert '"LocationConstraint": null' in aws("s3api", "get-bucket-location", "--bucket", "by-cli-api")
    aws("s3api", "head-bucket", "--bucket", "by-cli-api", "--expected-bucket-owner", "000000000000")
