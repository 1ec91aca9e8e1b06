"""Finds what the image holds for serving alone: OpenVINO and TensorFlow Serving's stubs, in a folder of their own."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_FOLDER = os.path.join("serving", "current")


def add(environ: Mapping[str, str]) -> None:
    """Put that folder at the end of the path, where there is one: whatever else is installed comes first.

    It lies in the image, beside the toolkit's own; CLARY_SERVING_PACKAGES names another.
    """
    toolkit = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    image = os.path.dirname(os.path.dirname(os.path.dirname(toolkit)))
    folder = environ.get("CLARY_SERVING_PACKAGES") or os.path.join(image, _FOLDER)
    if os.path.isdir(folder):
        sys.path.append(os.path.realpath(folder))
