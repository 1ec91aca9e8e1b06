"""horovod.tensorflow.elastic (state that is synchronised and committed), carried out by clary_parallel."""

from clary_parallel.surfaces.horovod_elastic import *  # noqa: F403  # pyright: ignore[reportWildcardImportFromLibrary]
