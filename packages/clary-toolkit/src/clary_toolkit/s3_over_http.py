"""Keeps TensorFlow's S3 file system on HTTP where the store speaks nothing else.

Scripts written for AWS set S3_USE_HTTPS to "1" themselves before they save to S3, and would talk TLS to a plain port:
TensorFlow then waits for minutes and gives up with "Curl returned error code 35".
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    Environ = os._Environ[str]  # pyright: ignore[reportPrivateUsage]
else:
    Environ = type(os.environ)

_VARIABLE = "S3_USE_HTTPS"


class _Kept(Environ):
    def __setitem__(self, key: str, value: str) -> None:
        super().__setitem__(key, "0" if key == _VARIABLE else value)


def install() -> None:
    """From now on this process's environment says HTTP, whatever is set."""
    os.environ.__class__ = _Kept
