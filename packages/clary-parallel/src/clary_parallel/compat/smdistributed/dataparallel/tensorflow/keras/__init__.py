"""smdistributed.dataparallel.tensorflow.keras, carried out by clary_parallel."""

from __future__ import annotations

from typing import Any

from clary_parallel.surfaces.horovod import not_offered
from clary_parallel.surfaces.horovod_keras import *  # noqa: F403  # pyright: ignore[reportWildcardImportFromLibrary]


def __getattr__(name: str) -> Any:
    raise not_offered(__name__, name)
