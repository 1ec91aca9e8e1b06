"""What newer Pythons have built in, for the images of TensorFlow before 2.12, whose Python is 3.8 or 3.9.

Data parallel training and the import-compatible modules run there; pipelines and Keras 3's `fit` need Python 3.10.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def paired(*iterables: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """zip(strict=True) of Python 3.10, for what is finite."""
    known = [list(iterable) for iterable in iterables]
    if len({len(each) for each in known}) > 1:
        raise ValueError(f"Expected as many of each. Received: {[len(each) for each in known]}")
    return zip(*known)  # noqa: B905 (`strict` is not known before Python 3.10)


def pairwise(iterable: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """itertools.pairwise of Python 3.10, for what is finite."""
    known = list(iterable)
    return zip(known, known[1:])  # noqa: B905, RUF007 (not known before Python 3.10)
