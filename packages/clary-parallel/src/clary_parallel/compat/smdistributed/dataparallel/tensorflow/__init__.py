"""smdistributed.dataparallel.tensorflow, carried out by clary_parallel."""

from __future__ import annotations

from typing import Any

from ...requirement import refuse_old_python

refuse_old_python("smdistributed.dataparallel.tensorflow")

from clary_parallel.surfaces.smdataparallel import *  # noqa: E402, F403  # pyright: ignore[reportWildcardImportFromLibrary]
from clary_parallel.surfaces.smdataparallel import not_offered  # noqa: E402


def __getattr__(name: str) -> Any:
    raise not_offered(__name__, name)
