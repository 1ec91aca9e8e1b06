"""Migrations make exactly the tables that the models describe, on both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

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


def test_a_file_that_is_no_database_is_refused_in_words_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "clary.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(migrate.DatabaseUnusable, match=r"clary\.db cannot be used: file is not a database\. Put"):
        migrate.upgrade(f"sqlite:///{path}")
    assert path.read_bytes() == b"this is no database" * 100


def test_a_server_that_cannot_be_reached_is_told_without_its_password() -> None:
    with pytest.raises(migrate.DatabaseUnusable, match=r"postgresql://me:\*\*\*@127\.0\.0\.1:1/x cannot be used"):
        migrate.upgrade("postgresql://me:secret@127.0.0.1:1/x")


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
