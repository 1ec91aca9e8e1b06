"""Multi-model endpoints with boto3 and SDK v2, unmodified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Server


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PYTHON_IMAGE = "python:3.12"


@pytest.fixture(scope="module")
def found(server: Server, boto3_python: Path) -> dict[str, Any]:
    """What the script found; the tests of this module look at one run."""
    said = server.run(boto3_python, "boto3_multi_model.py", PYTHON_IMAGE)
    print(said)
    return json.loads(said.splitlines()[-1])


def test_x(found):
    print(found)
