"""Keeps TensorFlow's S3 file system on HTTP where the store speaks nothing else.

Scripts written for AWS set S3_USE_HTTPS to "1" themselves before they save to S3, and would talk TLS to a plain port:
TensorFlow then waits for minutes and gives up with "Curl returned error code 35". The file system of tensorflow-io,
which newer TensorFlows have in place of their own, reads no such variable: it wants the scheme in S3_ENDPOINT, where
the oldest do not understand it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    Environ = os._Environ[str]  # pyright: ignore[reportPrivateUsage]
else:
    Environ = type(os.environ)

_VARIABLE = "S3_USE_HTTPS"
_ENDPOINT = "S3_ENDPOINT"
_PACKAGE = "tensorflow_io"


class _Kept(Environ):
    def __setitem__(self, key: str, value: str) -> None:
        super().__setitem__(key, "0" if key == _VARIABLE else value)


def install() -> None:
    """From now on this process's environment says HTTP, whatever is set."""
    endpoint = os.environ.get(_ENDPOINT, "")
    if endpoint and "://" not in endpoint and _is_installed(_PACKAGE):
        os.environ[_ENDPOINT] = "http://" + endpoint
    os.environ.__class__ = _Kept


def _is_installed(package: str) -> bool:
    # As a search for the module would find it, without the import of what searches.
    return any(os.path.isdir(os.path.join(folder, package)) for folder in sys.path)
