"""`clary quickstart`: a network that recognises handwritten digits, trained through the SageMaker SDK."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_quickstart_reaches_97_percent_on_images_it_has_not_seen(server: Server) -> None:
    done = server.clary("quickstart", "--json", timeout=800)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    assert result["accuracy"] >= 0.97
    assert re.fullmatch(r"s3://sagemaker-us-east-1-000000000000/quickstart-[\d-]+/output/model.tar.gz", result["model"])
    steps = {"Server", "SageMaker SDK", "TensorFlow environment", "Training job", "Endpoint", "Predictions"}
    assert set(result["seconds"]) == steps
    assert "Epoch 1/12" in done.stderr, "the job's log is shown while it trains"

    assert result["served_accuracy"] == pytest.approx(result["accuracy"], abs=0.004), "it serves what was trained"
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "█" in done.stderr, "pictures are shown in the terminal"
    assert _quickstarts_endpoints(server) == []

    described = json.loads(server.clary("jobs", "describe", result["job"], "--json").stdout)
    assert described["ModelArtifacts"]["S3ModelArtifacts"] == result["model"]
    assert "running" in server.clary("doctor").stdout, "the server goes on"


def _quickstarts_endpoints(server: Server) -> list[str]:
    """Its endpoints that are there, once those that are being deleted have gone."""
    deadline = time.monotonic() + 60
    while True:
        endpoints = json.loads(server.clary("endpoints", "--json").stdout)
        mine = [each for each in endpoints if each["EndpointName"].startswith("quickstart-")]
        if all(each["EndpointStatus"] != "Deleting" for each in mine) or time.monotonic() > deadline:
            return [each["EndpointName"] for each in mine]
        time.sleep(0.1)
