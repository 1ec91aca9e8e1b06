"""smdistributed.modelparallel.tensorflow, carried out by clary_parallel."""

from __future__ import annotations

from typing import Any

from ...requirement import refuse_old_python
from ..requirement import refuse_old_keras

refuse_old_keras()
refuse_old_python("smdistributed.modelparallel.tensorflow")

from clary_parallel.surfaces.smmodelparallel import *  # noqa: E402, F403  # pyright: ignore[reportWildcardImportFromLibrary]
from clary_parallel.surfaces.smmodelparallel import not_offered  # noqa: E402


def __getattr__(name: str) -> Any:
    raise not_offered(__name__, name)
