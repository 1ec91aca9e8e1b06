"""horovod.tensorflow.functions (broadcasts of variables and objects), carried out by clary_parallel."""

from __future__ import annotations

from clary_parallel.surfaces.horovod import *  # noqa: F403  # pyright: ignore[reportWildcardImportFromLibrary]
