"""Migrations make exactly the tables that the models describe, on both databases."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from clary.state import migrate
from clary.state.database import Base, Database


def test_the_migrations_make_the_models_tables(database: Database) -> None:
    migrate.load_models()
    with database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == [], "run: python -m clary.state.migrate 'What changed'"


def test_upgrading_twice_changes_nothing(database: Database) -> None:
    before = database.query(text("SELECT version_num FROM alembic_version"))
    migrate.upgrade(database.url)
    assert database.query(text("SELECT version_num FROM alembic_version")) == before == [(migrate.head(),)]


def test_servers_that_start_at_once_upgrade_once(empty_url: str) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            migrate.upgrade(empty_url)
        except BaseException as failure:  # noqa: BLE001 - told by the assertion below
            failures.append(failure)

    servers = [threading.Thread(target=start) for _ in range(4)]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
    assert failures == []


def test_a_newer_database_is_refused(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(migrate.DatabaseTooNew, match=r"9999.*update Clary"):
        migrate.upgrade(database.url)


def test_a_current_database_costs_a_start_little(database: Database) -> None:
    """benchmarks/starts.py measures it; what makes it cheap is that Alembic is not loaded for nothing."""
    code = f"""
import sys
from clary.state import migrate
migrate.upgrade({database.url!r})
assert "alembic" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
