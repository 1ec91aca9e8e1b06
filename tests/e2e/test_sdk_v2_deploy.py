"""SageMaker SDK v2, unmodified: from a training job to an endpoint, its predictions, an update and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Server


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def said(server: Server, sdk_v2: Path) -> str:
    """What the script printed; the tests of this module look at one run."""
    return server.run(sdk_v2, "v2_deploy.py", timeout=500)


def test_a_deployed_model_predicts_as_it_did_in_training(said: str) -> None:
    assert "predicted as the training job did" in said


def test_a_wrong_shape_is_the_models_error_and_says_what_is_expected(said: str) -> None:
    assert "wrong shape: ModelError" in said
    assert "Received client error (400)" in said


def test_an_endpoint_is_updated_to_a_model_with_a_handler(said: str) -> None:
    assert "updated to a model with a handler" in said


def test_a_deleted_endpoint_is_not_found(said: str) -> None:
    assert "deleted: ValidationException Could not find endpoint" in said
