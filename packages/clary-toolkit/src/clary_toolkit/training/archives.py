"""Unpacking the user's source archive without leaving the folder it belongs in."""

from __future__ import annotations

import os
import shutil
import tarfile

from clary_toolkit.training.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def unpack(archive: str, folder: str) -> None:
    """Unpack a tar archive (gzip or not) into `folder`.

    Members keep what a source tree needs: content, time of change, permission to read, write and execute. Links are
    kept as long as they lead to a place inside `folder`.

    Raises ClientError, naming the member, for `..`, absolute paths, links that lead out, devices and FIFOs; what was
    unpacked before it stays.
    """
    root = os.path.realpath(folder)
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                _unpack_member(tar, member, root)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ClientError("The source archive cannot be unpacked: {}".format(error)) from error


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, root: str) -> None:
    if os.path.isabs(member.name) or member.name.startswith("\\"):
        _refuse(member, "its path is absolute")
    if ".." in member.name.replace("\\", "/").split("/"):
        _refuse(member, "its path has .. in it")
    path = os.path.normpath(os.path.join(root, member.name))
    # An earlier member may have made a link of a folder on the way here: look at what is really on the disk.
    if not _is_within(os.path.realpath(os.path.dirname(path)) if path != root else root, root):
        _refuse(member, "it would be written outside the folder")
    if member.isdir():
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    if member.issym():
        target = os.path.realpath(os.path.join(os.path.dirname(path), member.linkname))
        if os.path.isabs(member.linkname) or not _is_within(target, root):
            _refuse(member, "it is a link to {!r}, outside the folder".format(member.linkname))
        os.symlink(member.linkname, path)
    elif member.islnk():
        target = os.path.realpath(os.path.join(root, member.linkname))
        if os.path.isabs(member.linkname) or not _is_within(target, root):
            _refuse(member, "it is a link to {!r}, outside the folder".format(member.linkname))
        os.link(target, path)
    elif member.isfile():
        _write_file(tar, member, path)
    else:
        _refuse(member, "it is a device or another special file")


def _write_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    source = tar.extractfile(member)
    assert source is not None  # isfile() was asked
    with open(path, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    # Read and write for the owner; no write for others, no set-user-id; execute only where the owner may.
    mode = (member.mode & 0o755) | 0o600
    os.chmod(path, mode if mode & 0o100 else mode & 0o644)
    os.utime(path, (member.mtime, member.mtime))


def _is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _refuse(member: tarfile.TarInfo, why: str) -> NoReturn:
    raise ClientError("The source archive holds {!r}, which is refused: {}.".format(member.name, why))
