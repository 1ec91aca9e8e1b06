"""Source archives are unpacked without leaving their folder; members that would are refused by name."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest
from conformance_cases import archive, header

from clary_toolkit.training import archives
from clary_toolkit.training.errors import ClientError


def unpack(content: bytes, folder: Path) -> Path:
    source = folder / "source.tar.gz"
    source.write_bytes(content)
    (folder / "code").mkdir()
    archives.unpack(str(source), str(folder / "code"))
    return folder / "code"


def test_files_folders_and_inner_links_are_kept(tmp_path: Path) -> None:
    code = unpack(
        archive(("a/b.py", "x"), header("link", tarfile.SYMTYPE, "a/b.py"), header("same", tarfile.LNKTYPE, "a/b.py")),
        tmp_path,
    )
    assert (code / "link").read_text() == (code / "same").read_text() == "x"
    assert int((code / "a" / "b.py").stat().st_mtime) == 1_700_000_000


def test_set_user_id_and_write_permission_for_others_are_dropped(tmp_path: Path) -> None:
    info = tarfile.TarInfo("run.sh")
    info.mode = 0o6777
    assert stat.S_IMODE((unpack(archive(("run.sh", info)), tmp_path) / "run.sh").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "member",
    [
        ("../up.txt", "x"),
        ("a/../../up.txt", "x"),
        ("/tmp/absolute.txt", "x"),
        ("..\\up.txt", "x"),
        header("absolute", tarfile.SYMTYPE, "/etc/passwd"),
        header("climbing", tarfile.SYMTYPE, "../../etc/passwd"),
        header("hard", tarfile.LNKTYPE, "../host.json"),
        header("device", tarfile.BLKTYPE),
        header("fifo", tarfile.FIFOTYPE),
    ],
    ids=lambda member: member[0] if isinstance(member, tuple) else str(member),
)
def test_a_member_that_would_leave_the_folder_is_refused_by_name(
    member: tuple[str, str | tarfile.TarInfo], tmp_path: Path
) -> None:
    with pytest.raises(ClientError) as refused:
        unpack(archive(("fine.py", "x"), member), tmp_path)
    assert repr(member[0]) in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "source.tar.gz"]


def test_links_that_together_lead_out_are_refused(tmp_path: Path) -> None:
    members = [
        header("d", tarfile.DIRTYPE),
        header("d/here", tarfile.SYMTYPE, "."),
        header("up", tarfile.SYMTYPE, "d/here/../.."),
        ("up/evil.txt", "x"),
    ]
    with pytest.raises(ClientError, match="'up'"):
        unpack(archive(*members), tmp_path)
    assert not (tmp_path / "evil.txt").exists()


def test_a_file_that_is_no_archive_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="cannot be unpacked"):
        unpack(b"no archive", tmp_path)


def test_a_truncated_archive_is_named_as_such(tmp_path: Path) -> None:
    content = archive(("a.py", "x" * 100_000))
    with pytest.raises(ClientError, match="cannot be unpacked"):
        unpack(content[: len(content) // 2], tmp_path)
