"""Logs are written and read alike on both databases. What the API answers of them is in tests/services/test_logs.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import func, select

from clary.state import log_pages, logs
from clary.state.database import Database
from clary.state.log_pages import Place
from clary.state.logs import LogEvent, LogStream

GROUP = "/aws/sagemaker/TrainingJobs"


def _read(database: Database, stream: str, *, newest_first: bool = False, limit: int = 10_000) -> list[str]:
    with database.reading() as session:
        found = log_pages.stream_id(session, log_pages.group_id(session, GROUP) or 0, stream) or 0
        events = log_pages.page(
            session, found, after=Place(-1, 0), before=log_pages.LAST, newest_first=newest_first, limit=limit
        )
    return [event.message for event in events]


def test_lines_are_read_in_the_order_of_their_one_writer(database: Database) -> None:
    with database.transaction() as session:
        logs.append_in_order(session, GROUP, "s", [(5, "a"), (3, "b")])
        logs.append_in_order(session, GROUP, "s", [(1, "c"), (9, "d")])
    assert _read(database, "s") == ["a", "b", "c", "d"]
    assert _read(database, "s", newest_first=True, limit=2) == ["c", "d"]


def test_many_writers_of_one_stream_lose_nothing(database: Database) -> None:
    def write(writer: int) -> None:
        for number in range(10):
            with database.transaction() as session:
                logs.append_in_order(session, GROUP, "s", [(number, f"{writer}-{number}-{k}") for k in range(3)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(set(_read(database, "s"))) == 120
    with database.reading() as session:
        stream = session.scalars(select(LogStream)).one()
        assert (stream.next_position, stream.first_event_ms, stream.last_event_ms) == (121, 0, 9)


def test_texts_of_every_kind_come_back(database: Database) -> None:
    texts = ["\0", "é€😀", "\udcff", "", "a\tb\r", "x" * 300_000]
    with database.transaction() as session:
        logs.append_in_order(session, GROUP, "s", [(0, text) for text in texts])
    assert _read(database, "s") == ["\u2400", "é€😀", "?", " ", "a\tb\r", "x" * 262_144, "x" * 37_856]


def test_a_search_pages_over_streams_in_order_of_time(database: Database) -> None:
    with database.transaction() as session:
        for stream in range(4):
            lines = [(time, f"{time}-{stream}") for time in range(stream, 40, 4)]
            logs.append_in_order(session, GROUP, f"s{stream}", lines)
    for newest_first in (False, True):
        seen: list[str] = []
        resume = None
        with database.reading() as session:
            spans = log_pages.spans(session, log_pages.group_id(session, GROUP) or 0)
            while True:
                found = log_pages.search(
                    session,
                    spans,
                    start_ms=0,
                    end_ms=99,
                    resume=resume,
                    newest_first=newest_first,
                    matches=lambda _: True,
                    limit=7,
                )
                seen += [event.message for _, event in found.events]
                resume = found.resume
                if resume is None:
                    break
        assert seen == sorted(seen, key=lambda text: int(text.split("-")[0]), reverse=newest_first)
        assert len(set(seen)) == 40


def test_deleting_a_group_deletes_its_events(database: Database) -> None:
    with database.transaction() as session:
        logs.append_in_order(session, GROUP, "s", [(0, "a")])
        assert logs.delete_group(session, GROUP)
        assert not logs.delete_group(session, GROUP)
    assert database.query(select(func.count()).select_from(LogEvent)) == [(0,)]
