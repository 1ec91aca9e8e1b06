"""Bringing a database to the version of this code.

`upgrade` is what the server calls at each start. After a change to the models,
`python -m clary.state.migrate "Add the column x"` writes the migration for it into `migrations/versions`; read it,
and let `make format` put it into form.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, make_url, text
from sqlalchemy.exc import DBAPIError

import clary.state
from clary.state.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x636C617279  # PostgreSQL's advisory lock that upgrading takes: several servers may start at once


class DatabaseUnusable(Exception):
    """The database cannot be reached, read or written; the message says why and what to do."""


class DatabaseTooNew(DatabaseUnusable):
    """The database was written by a newer version of Clary."""


def head() -> str:
    """The newest revision of this code."""
    return max(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def upgrade(url: str) -> None:
    """Create the tables of a new database, or bring an older one up to date. Quick when nothing is to do.

    Raises:
        DatabaseUnusable: with the reason; DatabaseTooNew where this version of Clary is older than the database's.
    """
    database = Database(url)
    try:
        with database.reading() as session:
            if _revision(session.connection()) == head():
                return
        with database.transaction() as session:
            connection = session.connection()
            if not database.is_sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            _upgrade(connection, url)
    except DBAPIError as error:
        said = " ".join(str(error.orig).split())
        raise DatabaseUnusable(
            f"the database {_shown(url)} cannot be used: {said}. Put its backup in its place, or set CLARY_HOME or "
            "CLARY_DATABASE_URL to another one"
        ) from error
    finally:
        database.close()


def load_models() -> None:
    """Import every module of `state`, so that `Base.metadata` knows all tables."""
    for module in pkgutil.iter_modules(clary.state.__path__, "clary.state."):
        if not module.ispkg:
            importlib.import_module(module.name)


def write_migration(message: str) -> Path:
    """Write the migration from the newest revision to the models as they are now, and return its file."""
    from alembic import command

    load_models()
    number = f"{int(head()) + 1:04d}" if list((MIGRATIONS / "versions").glob("[0-9]*_*.py")) else "0001"
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/current.db"
        if number != "0001":
            upgrade(url)
        database = Database(url)
        with database.transaction() as session:
            script = command.revision(_config(session.connection()), message, autogenerate=True, rev_id=number)
        database.close()
    assert script is not None
    assert not isinstance(script, list)
    path = Path(script.path)
    path.write_text("".join(line for line in path.open() if "# ###" not in line))
    return path


def _upgrade(connection: Connection, url: str) -> None:
    from alembic import command  # only now: it takes longer to import than all else here

    current = _revision(connection)
    if current is not None and current > head():
        raise DatabaseTooNew(
            f"the database {_shown(url)} is of revision {current}, this version of Clary knows up to {head()}: "
            "update Clary, or set CLARY_HOME or CLARY_DATABASE_URL to another place"
        )
    load_models()
    command.upgrade(_config(connection), "head")


def _shown(url: str) -> str:
    """The URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    return config


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('usage: python -m clary.state.migrate "What the change does"')
    print(write_migration(sys.argv[1]))
