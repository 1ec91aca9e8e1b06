"""Why a job ended, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from clary.host import ending

TRACEBACK = [
    "Epoch 1",
    "Traceback (most recent call last):",
    '  File "train.py", line 3, in <module>',
    "    fit()",
    "tensorflow.errors.InvalidArgumentError: shapes do not match",
    "bye",
]


def test_the_last_traceback_is_found() -> None:
    assert ending.why(["Traceback (most recent call last):", "ValueError: first", *TRACEBACK]) == tuple(TRACEBACK[1:5])


def test_without_a_traceback_the_last_lines_are_told() -> None:
    assert ending.why(["a", "", "10%\r20%", "b"]) == ("a", "20%", "b")


def test_a_traceback_behind_a_prefix_is_found() -> None:
    lines = ["  Traceback (most recent call last):", '    File "x"', "  KeyError: 'y'", "after"]
    assert ending.why(lines) == tuple(lines[:3])


@pytest.mark.parametrize(("code", "name"), [(137, "SIGKILL"), (143, "SIGTERM"), (1, None), (255, None)])
def test_an_exit_code_tells_the_signal(code: int, name: str | None) -> None:
    assert ending.signal_name(code) == name


def test_a_failure_file_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "failure").symlink_to(tmp_path / "secret")
    assert ending.failure_text(tmp_path / "failure") == ""
