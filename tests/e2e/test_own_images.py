"""Images of the user's own with SageMaker SDK v2, unmodified: trained, deployed and asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Server

sys.path.insert(0, str(Path(__file__).parents[2] / "packages" / "clary" / "tests"))
import own_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def said(server: Server, sdk_v2: Path) -> str:
    """What the script printed; the tests of this module look at one run."""
    name = own_image.plain_image().removeprefix("localhost/")
    return server.run(sdk_v2, "v2_own_image.py", f"000000000000.dkr.ecr.us-east-1.amazonaws.com/{name}")


def test_an_estimator_shows_the_log_and_metrics_of_the_user_s_container(said: str) -> None:
    assert "argument train" in said
    assert 'hyperparameters {"epochs": "3"}' in said
    assert "metrics: [0.25]" in said


def test_what_it_trained_is_deployed_in_the_same_image(said: str) -> None:
    assert "predicted: flowers rose" in said


def test_images_of_one_s_own_are_listed(server: Server, said: str) -> None:
    assert said
    listed = json.loads(server.clary("images", "ls", "--json").stdout)
    assert own_image.plain_image() in [image["name"] for image in listed if image["framework"] == "own"]
    assert own_image.plain_image() in server.clary("images", "ls").stderr.replace("\n", "")


def test_doctor_says_which_engine_runs_such_images(server: Server) -> None:
    engine = own_image.engine()
    told = server.clary("doctor").stdout
    assert f"{engine.name} version" in told.lower()
