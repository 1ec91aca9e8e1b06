"""From the image that a job names to what it runs in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from clary.host.supervisor import ImageUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from clary.host.spec import HostSpec
    from clary.images.build import BuiltImage
    from clary.images.catalog import FrameworkImage
    from clary.images.own import OwnImage


def prepare(spec: HostSpec, progress: Callable[[str], None]) -> BuiltImage | OwnImage:
    """The image's environment, built when it is not there yet, or the user's own image where Clary has no recipe.

    Raises:
        ImageUnavailable: it cannot be had.
    """
    from clary.images import horovod
    from clary.images.build import BuiltImage
    from clary.images.catalog import resolve, resolve_for_smdistributed

    recipe_of = resolve_for_smdistributed if _is_smdistributed(spec) else resolve
    prepared = _prepare(spec.image, spec.images_home, progress, recipe_of)
    if isinstance(prepared, BuiltImage):
        recipe = recipe_of(spec.image)
        if horovod.fits(recipe) and _is_by_mpi(spec):
            notices = horovod.ensure(recipe, prepared.root, progress)
            return dataclasses.replace(prepared, notices=prepared.notices + notices)
    return prepared


def _is_smdistributed(spec: HostSpec) -> bool:
    """Whether the SDK asks for SageMaker's data parallel or model parallel library."""
    given = spec.hyperparameters
    return given.get("sagemaker_distributed_dataparallel_enabled") == "true" or "mp_parameters" in given


def _is_by_mpi(spec: HostSpec) -> bool:
    """Whether either SDK asks for the script to be started by MPI."""
    from clary.host import sdk_drivers

    by_hyperparameter = spec.hyperparameters.get("sagemaker_mpi_enabled") == "true"
    return by_hyperparameter or sdk_drivers.start_mpi(spec.channels, spec.store)


def prepare_to_serve(image: str, images_home: str, progress: Callable[[str], None]) -> BuiltImage | OwnImage:
    """What an image that is to serve a model runs in; raises `ImageUnavailable` when it cannot be had."""
    from clary.images.catalog import resolve_serving

    return _prepare(image, images_home, progress, resolve_serving)


def _prepare(
    image: str, images_home: str, progress: Callable[[str], None], recipe: Callable[[str], FrameworkImage]
) -> BuiltImage | OwnImage:
    from clary.images.build import ensure
    from clary.images.catalog import FrameworkImage
    from clary.images.errors import ImageError
    from clary.images.own import choose

    try:
        chosen = choose(image, recipe, Path(images_home))
        return ensure(chosen, Path(images_home), progress) if isinstance(chosen, FrameworkImage) else chosen
    except ImageError as error:
        raise ImageUnavailable(str(error)) from error
