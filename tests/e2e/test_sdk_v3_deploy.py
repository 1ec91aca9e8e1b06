"""SageMaker SDK v3, unmodified: its resources from a model to an endpoint, an answer, and the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-inference:2.19-cpu"


def test_resources_and_the_model_builder_deploy_ask_and_delete(server: Server, sdk_v3: Path) -> None:
    said = server.run(sdk_v3, "v3_deploy.py", IMAGE)
    assert "answered [2, 4, 6]" in said
    assert "listed ['v3-deployed']" in said
    assert "deleted" in said
    assert "built and answered [10]" in said
    assert "one of several answered [8]" in said
