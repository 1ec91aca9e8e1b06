"""A record, a controller and a cluster whose hosts the test plays: what a real host would report, the test reports."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from driven_platform import DrivenPlatform

from clary.lifecycle import training
from clary.state import migrate
from postgres import postgres_url

__all__ = ["postgres_url"]


@pytest.fixture(scope="session")
def empty_record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, to be copied: migrating each would take longer than most tests."""
    path = tmp_path_factory.mktemp("record") / "clary.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(autouse=True)
def _waiting_shows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PENDING_AFTER", dt.timedelta(0))


@pytest.fixture
def platform(tmp_path: Path, empty_record: Path) -> Generator[DrivenPlatform]:
    shutil.copy(empty_record, tmp_path / "clary.db")
    platform = DrivenPlatform(tmp_path)
    yield platform
    platform.close()
