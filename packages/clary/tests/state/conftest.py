"""Both databases: every test that takes `database` runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import sys
from collections.abc import Generator
from itertools import count
from pathlib import Path

import pytest

from clary.state import migrate
from clary.state.database import Database

sys.path.insert(0, str(Path(__file__).parents[1]))
import postgres
from postgres import postgres_url

__all__ = ["postgres_url"]

_numbers = count()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'clary.db'}"
    return postgres.new_database(request.getfixturevalue("postgres_url"), f"test_{next(_numbers)}")


@pytest.fixture
def database(empty_url: str) -> Generator[Database]:
    """A migrated database without rows."""
    migrate.upgrade(empty_url)
    database = Database(empty_url)
    yield database
    database.close()
