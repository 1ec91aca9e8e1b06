"""Bytes to log lines."""

from __future__ import annotations

from clary.host.output_capture import MAX_LINE_BYTES, LineSplitter


def test_lines_end_at_newlines_wherever_the_reads_fall() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == ["one"]
    assert splitter.feed(b"o\r\n\nlast") == ["two", ""]
    assert splitter.rest() == ["last"]
    assert splitter.rest() == []


def test_a_long_line_is_cut_between_characters() -> None:
    splitter = LineSplitter()
    lines = splitter.feed(("x" + "é" * MAX_LINE_BYTES).encode()) + splitter.rest()
    assert "".join(lines) == "x" + "é" * MAX_LINE_BYTES
    assert max(len(line.encode()) for line in lines) <= MAX_LINE_BYTES


def test_a_long_line_of_no_text_is_cut_all_the_same() -> None:
    splitter = LineSplitter()
    lines = splitter.feed(b"\x80" * (2 * MAX_LINE_BYTES)) + splitter.rest()
    assert "".join(lines) == "\ufffd" * (2 * MAX_LINE_BYTES)


def test_a_progress_bar_is_shown_once_a_second() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"1%\r2%\r3") == []
    assert splitter.progress(10.0) == ["1%\r2%"]
    assert splitter.feed(b"%\r4%\r") == []
    assert splitter.progress(10.5) == []
    assert splitter.progress(11.1) == ["3%\r4%"]
    assert splitter.feed(b"done\n") == ["done"]
