from __future__ import annotations

import configparser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clary.cli.configure import write_section
from clary.cli.output import CliError

if TYPE_CHECKING:
    from conftest import Clary


def test_a_new_file_holds_the_section_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "aws" / "credentials"
    write_section(path, "clary", {"aws_access_key_id": "A", "aws_secret_access_key": "B"})
    assert path.read_text() == "[clary]\naws_access_key_id = A\naws_secret_access_key = B\n"
    assert path.stat().st_mode & 0o777 == 0o600


BEFORE = """# mine
[default]
region = eu-west-1   ; home

[profile clary]
# a note
endpoint_url = http://old:1
retry_mode = adaptive
s3 =
  endpoint_url = http://nested

[profile work]
role_arn = arn:aws:iam::1:role/x
"""


def test_only_the_given_values_of_the_section_change(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(BEFORE)
    path.chmod(0o644)
    write_section(path, "profile clary", {"endpoint_url": "http://new:2"})
    after = path.read_text()
    assert after == BEFORE.replace("# a note\nendpoint_url = http://old:1\n", "endpoint_url = http://new:2\n# a note\n")
    assert path.stat().st_mode & 0o777 == 0o644
    write_section(path, "profile clary", {"endpoint_url": "http://new:2"})
    assert path.read_text() == after


@pytest.mark.parametrize("before", ["[default]\na = 1", "[default]\na = 1\n", "[default]\na = 1\n\n", "\n", ""])
def test_a_section_is_added_behind_whatever_is_there(tmp_path: Path, before: str) -> None:
    path = tmp_path / "config"
    path.write_text(before)
    write_section(path, "profile clary", {"region": "us-east-1"})
    parsed = configparser.ConfigParser()
    parsed.read(path)
    assert parsed["profile clary"]["region"] == "us-east-1"
    assert path.read_text().startswith(before)
    if "default" in before:
        assert parsed["default"]["a"] == "1"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles"
    real.write_text("")
    link = tmp_path / "config"
    link.symlink_to(real)
    write_section(link, "clary", {"a": "1"})
    assert link.is_symlink()
    assert "a = 1" in real.read_text()


def test_an_unreadable_file_is_an_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CliError, match="cannot be read"):
        write_section(path, "clary", {"a": "1"})
    assert path.read_bytes() == b"\xff\xfe\x00"


def test_configure_writes_a_profile_for_the_server(served: Clary, tmp_path: Path) -> None:
    files = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    done = served("configure", "--profile", "mine", **files)
    assert done.returncode == 0, done.stderr
    assert "endpoint_url = http://127.0.0.1:" in (tmp_path / "config").read_text()
    assert "[mine]" in (tmp_path / "credentials").read_text()


def test_a_profile_name_that_would_break_the_file_is_refused(served: Clary) -> None:
    assert served("configure", "--profile", "x]\n[default").returncode == 2
