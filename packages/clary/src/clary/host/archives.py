"""Archives that users give, unpacked so that nothing of them lies or points outside the folder."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

_CHUNK = 1 << 20


class ArchiveRefused(Exception):
    """The archive is unsafe or broken; the message names the member and says what is wrong with it."""


def extract(archive: Path, folder: Path, *, limit_bytes: int | None = None) -> None:
    """Unpack a .tar or .tar.gz into a folder, which is made if need be.

    Files and folders are written first and links last, so that nothing is ever written through a link. Owners, set-id
    bits and times are not taken over.

    Args:
        limit_bytes: how much the files may hold together.

    Raises:
        ArchiveRefused: a member has an absolute path or "..", links out of the folder, is a device or a pipe; the
            archive holds more than the limit; it is not a tar archive, or cut off. What was unpacked by then remains.
        OSError: the disk is full, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive, "r:*") as tar:
            _Extraction(archive.name, folder.resolve(), limit_bytes).run(tar)
    except (tarfile.TarError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveRefused(f"{archive.name} is not a readable tar archive: {error}") from None


class _Extraction:
    def __init__(self, archive: str, folder: Path, limit_bytes: int | None) -> None:
        self._archive, self._folder, self._limit = archive, folder, limit_bytes
        self._links: dict[PurePosixPath, str] = {}
        self._size = 0

    def run(self, tar: tarfile.TarFile) -> None:
        for member in tar:
            path = self._checked_path(member)
            if path is None:
                continue
            self._links.pop(path, None)  # of members of one name the last counts
            if member.isdir():
                self._make_folder(path, member)
            elif member.issym():
                self._links[path] = member.linkname
            elif member.islnk():
                self._link_hard(path, member)
            elif member.isreg():
                self._write(tar, path, member)
            else:
                raise self._refused(member, "is a device or a pipe")
        self._make_links()

    def _checked_path(self, member: tarfile.TarInfo) -> PurePosixPath | None:
        """The path below the folder; None for the folder itself."""
        return self._inside(member, member.name)

    def _inside(self, member: tarfile.TarInfo, name: str) -> PurePosixPath | None:
        path = PurePosixPath(name)
        if path.is_absolute():
            raise self._refused(member, "has an absolute path")
        if ".." in path.parts or "\0" in name:
            raise self._refused(member, 'has ".." in its path')
        for parent in path.parents:
            if parent in self._links:
                raise self._refused(member, f'lies beyond the link "{parent}"')
        return path if path.parts else None

    def _make_folder(self, path: PurePosixPath, member: tarfile.TarInfo) -> None:
        target = self._folder / path
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            target.unlink()
        target.mkdir(parents=True, exist_ok=True)
        target.chmod(member.mode & 0o777 | 0o700)

    def _write(self, tar: tarfile.TarFile, path: PurePosixPath, member: tarfile.TarInfo) -> None:
        self._size += member.size
        if self._limit is not None and self._size > self._limit:
            raise self._refused(member, f"makes its content larger than {self._limit} bytes")
        content = tar.extractfile(member)
        assert content is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(self._free(path, member), flags, member.mode & 0o777 | 0o600), "wb") as file:
            shutil.copyfileobj(content, file, _CHUNK)

    def _link_hard(self, path: PurePosixPath, member: tarfile.TarInfo) -> None:
        source = self._inside(member, member.linkname)
        target = self._folder / source if source else None
        if target is None or target.is_symlink() or not target.is_file():
            raise self._refused(member, f'links to "{member.linkname}", which is no earlier file of the archive')
        self._free(path, member).hardlink_to(target)

    def _free(self, path: PurePosixPath, member: tarfile.TarInfo) -> Path:
        """The place for a file: its folder made, an earlier file of that name removed."""
        target = self._folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise self._refused(member, "lies below a file of the archive") from None
        if target.parent.resolve() != target.parent:
            raise self._refused(member, "lies beyond a link")
        if target.is_dir() and not target.is_symlink():
            raise self._refused(member, "has the name of a folder of the archive")
        target.unlink(missing_ok=True)
        return target

    def _make_links(self) -> None:
        for path, target in self._links.items():
            member = tarfile.TarInfo(str(path))
            if PurePosixPath(target).is_absolute():
                raise self._refused(member, f'links to the absolute path "{target}"')
            self._free(path, member).symlink_to(target)
        for path, target in self._links.items():
            if not Path(os.path.realpath(self._folder / path)).is_relative_to(self._folder):
                for made in self._links:
                    (self._folder / made).unlink(missing_ok=True)
                raise self._refused(tarfile.TarInfo(str(path)), f'links out of the folder, to "{target}"')

    def _refused(self, member: tarfile.TarInfo, why: str) -> ArchiveRefused:
        return ArchiveRefused(f'{self._archive} was refused: its member "{member.name}" {why}.')
