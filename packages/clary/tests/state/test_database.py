"""What the three ways into the database promise, on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from clary.state import migrate
from clary.state.database import Database, table_of
from clary.state.tags import Tag

_TAGS = table_of(Tag)


def _put(database: Database, key: str, value: str = "") -> None:
    with database.transaction() as session:
        session.execute(insert(_TAGS).values(resource_arn="a", key=key, value=value))


def _keys(database: Database) -> list[str]:
    return [row.key for row in database.query(select(_TAGS.c.key).order_by(_TAGS.c.key))]


def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    def fail_half_way() -> None:
        with database.transaction() as session:
            session.execute(insert(_TAGS).values(resource_arn="a", key="k", value=""))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail_half_way()
    assert _keys(database) == []


def test_a_reader_keeps_its_snapshot_and_does_not_wait_for_a_writer(database: Database) -> None:
    _put(database, "one")
    with database.transaction() as writer:
        writer.execute(insert(_TAGS).values(resource_arn="a", key="two", value=""))
        assert _keys(database) == ["one"]
    assert _keys(database) == ["one", "two"]


def test_counting_up_from_many_threads_loses_no_count(database: Database) -> None:
    _put(database, "counter", "0")
    counter = select(_TAGS.c.value).where(_TAGS.c.key == "counter").with_for_update()

    def count_up() -> None:
        for _ in range(25):
            with database.transaction() as session:
                value = int(session.execute(counter).scalar_one())
                session.execute(_TAGS.update().values(value=str(value + 1)))

    threads = [threading.Thread(target=count_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.query(select(_TAGS.c.value)) == [("200",)]


def test_names_sort_byte_by_byte(database: Database) -> None:
    for name in ("b", "a-b", "B", "a1", "é", "a"):
        _put(database, name)
    assert _keys(database) == ["B", "a", "a-b", "a1", "b", "é"]


def test_a_transaction_within_another_is_a_mistake_that_says_so(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'clary.db'}")
    with (
        database.transaction(),
        pytest.raises(RuntimeError, match="pass its session on instead"),
        database.transaction(),
    ):
        pass
    database.close()


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'clary.db'}"
    migrate.upgrade(url)
    code = (
        "import itertools, sys; from clary.state.database import Database; from clary.state import tags\n"
        f"database = Database({url!r})\n"
        "for number in itertools.count():\n"
        "    with database.transaction() as session: tags.put(session, 'a', [{'Key': f'{number:08}', 'Value': ''}])\n"
        "    print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = -1
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged == 200:
                os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    database = Database(url)
    assert _keys(database)[: acknowledged + 1] == [f"{number:08}" for number in range(acknowledged + 1)]
    assert database.query(select(_TAGS.c.key).limit(1))
    database.close()
