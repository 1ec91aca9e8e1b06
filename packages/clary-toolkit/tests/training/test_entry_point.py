"""Entry points: names that are refused, kinds, commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from clary_toolkit.training import entry_point
from clary_toolkit.training.errors import ClientError


@pytest.mark.parametrize(
    "name", ["", "-c", "/bin/sh", "../a.py", "a/../b.py", "./a.py", "a;b", "a b.py", "a//b", "ü.py"]
)
def test_a_name_that_could_be_more_than_a_path_is_refused(name: str) -> None:
    with pytest.raises(ClientError, match="sagemaker_program"):
        entry_point.check_name(name)


@pytest.mark.parametrize("name", ["train.py", "src/train-2.py", ".hidden.sh", "a+b_c.py", "run"])
def test_a_plain_relative_path_is_taken(name: str) -> None:
    entry_point.check_name(name)


def test_the_kind_follows_the_name_and_a_setup_file(tmp_path: Path) -> None:
    kinds = [entry_point.kind_of(name, str(tmp_path)) for name in ("a.sh", "a.py", "a")]
    assert kinds == [entry_point.COMMAND, entry_point.PROGRAM, entry_point.COMMAND]
    (tmp_path / "setup.py").touch()
    kinds = [entry_point.kind_of(name, str(tmp_path)) for name in ("a.sh", "a.py", "a")]
    assert kinds == [entry_point.COMMAND, entry_point.PACKAGE, entry_point.PACKAGE]


def test_a_missing_entry_point_is_answered_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "tarin.py").touch()
    with pytest.raises(ClientError, match=r"'train.py' is not in the source directory, which holds: tarin.py"):
        entry_point.locate("train.py", str(tmp_path))


def test_a_link_out_of_the_code_folder_is_no_entry_point(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "outside.sh").touch()
    (tmp_path / "code" / "run.sh").symlink_to(tmp_path / "outside.sh")
    with pytest.raises(ClientError, match="leads out"):
        entry_point.locate("run.sh", str(tmp_path / "code"))


def test_arguments_of_a_shell_script_are_quoted_once() -> None:
    command = entry_point.command("run.sh", entry_point.COMMAND, "python", ["--a", "x; rm -rf $HOME"])
    assert command == ["/bin/sh", "-c", "./run.sh --a 'x; rm -rf $HOME'"]
