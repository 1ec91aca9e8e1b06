"""smdistributed.modelparallel.tensorflow, carried out by clary_parallel."""

from __future__ import annotations

from typing import Any

from clary_parallel.surfaces.smmodelparallel import *  # noqa: F403  # pyright: ignore[reportWildcardImportFromLibrary]
from clary_parallel.surfaces.smmodelparallel import not_offered


def __getattr__(name: str) -> Any:
    raise not_offered(__name__, name)
