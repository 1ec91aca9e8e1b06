"""Archives from users: what is safe is unpacked, what is not is refused by name."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clary.host.archives import ArchiveRefused, extract

Fill = Callable[[tarfile.TarFile], None]


def file(tar: tarfile.TarFile, name: str, content: bytes = b"x", mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    tar.addfile(member, io.BytesIO(content))


def special(tar: tarfile.TarFile, name: str, kind: bytes, target: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    tar.addfile(member)


def archive(tmp_path: Path, fill: Fill) -> Path:
    path = tmp_path / "source.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        fill(tar)
    return path


def test_files_folders_and_inner_links_are_unpacked(tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        file(tar, "./train.py", b"print()", mode=0o4755)
        special(tar, "empty", tarfile.DIRTYPE)
        file(tar, "lib/deep/module.py", b"y = 1")
        special(tar, "lib/link.py", tarfile.SYMTYPE, "deep/module.py")
        special(tar, "twin.py", tarfile.LNKTYPE, "lib/deep/module.py")

    extract(archive(tmp_path, fill), tmp_path / "out")
    out = tmp_path / "out"
    assert (out / "train.py").read_bytes() == b"print()"
    assert (out / "train.py").stat().st_mode & 0o7777 == 0o755
    assert (out / "lib/link.py").read_bytes() == (out / "twin.py").read_bytes() == b"y = 1"
    assert (out / "empty").is_dir()


REFUSED: dict[str, tuple[Fill, str]] = {
    "parent": (lambda tar: file(tar, "../evil"), '"../evil" has ".."'),
    "hidden parent": (lambda tar: file(tar, "a/../../evil"), 'has ".."'),
    "absolute": (lambda tar: file(tar, "/etc/evil"), '"/etc/evil" has an absolute path'),
    "link out": (lambda tar: special(tar, "l", tarfile.SYMTYPE, "../secret"), '"l" links out of the folder'),
    "absolute link": (lambda tar: special(tar, "l", tarfile.SYMTYPE, "/etc/passwd"), "absolute path"),
    "hard link out": (lambda tar: special(tar, "l", tarfile.LNKTYPE, "../secret"), 'has ".."'),
    "hard link to nothing": (lambda tar: special(tar, "l", tarfile.LNKTYPE, "none"), "no earlier file"),
    "device": (lambda tar: special(tar, "null", tarfile.CHRTYPE), '"null" is a device or a pipe'),
    "block device": (lambda tar: special(tar, "sda", tarfile.BLKTYPE), "is a device"),
    "pipe": (lambda tar: special(tar, "pipe", tarfile.FIFOTYPE), "is a device or a pipe"),
    "through a link": (
        lambda tar: (special(tar, "d", tarfile.SYMTYPE, "."), file(tar, "d/x"))[0],
        'lies beyond the link "d"',
    ),
    "through links of links": (
        lambda tar: (
            special(tar, "deep/er", tarfile.DIRTYPE),
            special(tar, "deep/er/l", tarfile.SYMTYPE, "../.."),
            special(tar, "x", tarfile.SYMTYPE, "deep/er/l/../secret"),
        )[0],
        '"x" links out of the folder',
    ),
    "below a file": (lambda tar: (file(tar, "a"), file(tar, "a/b"))[0], "lies below a file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsafe_members_are_refused_by_name(tmp_path: Path, case: str) -> None:
    fill, text = REFUSED[case]
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(ArchiveRefused) as caught:
        extract(archive(tmp_path, fill), tmp_path / "out")
    assert text in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "secret", "source.tar.gz"]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink() and not path.exists()]


def test_a_link_that_already_lies_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchiveRefused, match="beyond a link"):
        extract(archive(tmp_path, lambda tar: file(tar, "d/x")), tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    bomb = archive(tmp_path, lambda tar: file(tar, "zeros", b"\0" * 1_000_000))
    with pytest.raises(ArchiveRefused, match="larger than 1000 bytes"):
        extract(bomb, tmp_path / "out", limit_bytes=1000)


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_what_is_no_archive_is_refused(tmp_path: Path, cut: int) -> None:
    path = archive(tmp_path, lambda tar: file(tar, "a", bytes(range(256)) * 1000))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ArchiveRefused, match=r"source\.tar\.gz is not a readable tar archive"):
        extract(path, tmp_path / "out")
