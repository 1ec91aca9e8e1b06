"""The user's code: brought from S3 or a local path into /opt/ml/code."""

from __future__ import annotations

import os

from clary_toolkit.training import log
from clary_toolkit.training.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def place(uri: str, folder: str, environ: Mapping[str, str]) -> None:
    """Put the code that `uri` names into `folder`, unless there is code in it already.

    `uri` is an s3:// address or local path of a tar archive, a local folder, or a single local file.
    """
    os.makedirs(folder, exist_ok=True)
    if os.listdir(folder):
        log.info("{} already holds code: {} is not unpacked".format(folder, uri))
    elif uri.startswith("s3://"):
        _from_s3(uri, folder, environ)
    elif os.path.isdir(uri):
        if os.path.realpath(uri) != os.path.realpath(folder):
            _copy_folder(uri, folder)
    elif os.path.isfile(uri):
        _from_file(uri, folder)
    else:
        raise ClientError(
            "There is no code at {!r} (hyperparameter sagemaker_submit_directory): expected an s3:// address, or a "
            "folder or archive in the container.".format(uri)
        )


def _from_s3(uri: str, folder: str, environ: Mapping[str, str]) -> None:
    import tempfile

    from clary_toolkit.training import archives, s3

    with tempfile.TemporaryDirectory() as scratch:
        archive = os.path.join(scratch, "sourcedir.tar.gz")
        s3.download(uri, archive, environ)
        archives.unpack(archive, folder)


def _from_file(path: str, folder: str) -> None:
    import tarfile

    if not tarfile.is_tarfile(path):
        import shutil

        shutil.copy2(path, folder)
        return
    from clary_toolkit.training import archives

    archives.unpack(path, folder)


def _copy_folder(source: str, folder: str) -> None:
    import shutil

    # `folder` itself stays: in a sandbox it may be a mount, which cannot be removed and made anew.
    for entry in os.scandir(source):
        target = os.path.join(folder, entry.name)
        if entry.is_dir():
            shutil.copytree(entry.path, target)
        else:
            shutil.copy2(entry.path, target)
