"""What AWS's image and TensorFlow Serving do differently from release to release.

The image says its release as AWS's does, in SAGEMAKER_TFS_VERSION; without one, it is taken for the newest.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NEWEST = (99, 0)


def output_handler_sees_errors(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `output_handler` is called with TensorFlow Serving's errors, too: up to the image of 2.19."""
    return _release(environ) < (2, 20)


def invalid_argument(environ: Mapping[str, str] = os.environ) -> str:
    """The code of a wrong argument, as an error names the one that it wraps: in capitals since 2.7."""
    return "Invalid argument" if _release(environ) < (2, 7) else "INVALID_ARGUMENT"


def _release(environ: Mapping[str, str]) -> tuple[int, int]:
    major, _, minor = environ.get("SAGEMAKER_TFS_VERSION", "").partition(".")
    minor = minor.partition(".")[0]
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else _NEWEST
