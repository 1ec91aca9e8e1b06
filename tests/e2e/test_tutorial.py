"""The tutorial works as it is printed: its two scripts are taken from the page and run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "first-job.md"


def test_the_first_job_tutorial_ends_with_a_trained_model(server: Server, sdk_v2: Path, tmp_path: Path) -> None:
    train, launch = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "train.py").write_text(train)
    (tmp_path / "launch.py").write_text(launch)
    said = server.run(sdk_v2, "launch.py", folder=tmp_path)
    accuracy = re.search(r"^accuracy: ([0-9.]+)$", said, flags=re.MULTILINE)
    assert accuracy
    assert float(accuracy[1]) > 0.8
    model = re.search(r"^s3://(\S+?)/(\S+/model\.tar\.gz)$", said, flags=re.MULTILINE)
    assert model

    command = re.search(r'clary run -- venv/bin/python -c "(.*?)"', PAGE.read_text())
    assert command
    program = command[1].replace("PATH/output/model.tar.gz", model[2])
    server.run(sdk_v2, "-c", program, folder=tmp_path)
    assert (tmp_path / "model" / "model.tar.gz").stat().st_size > 1000
