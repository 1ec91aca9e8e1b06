"""Whether this Python can run Clary's parallel library; readable by every Python that an image may have."""

import sys


def refuse_old_python(module: str) -> None:
    """Raise an ImportError that names the way out where Python is older than 3.8."""
    if sys.version_info < (3, 8):  # noqa: UP036 (images have older ones than this package is written for)
        raise ImportError(
            "Clary's {} needs Python 3.8 or later, and this image has Python {}.{}. Give the estimator "
            "framework_version='2.8' and py_version='py39', or '2.19' and 'py312': programs for TensorFlow 2.3 and "
            "later run there.".format(module, *sys.version_info[:2])
        )
