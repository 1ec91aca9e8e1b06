"""From the image that a job names to the environment that it runs in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from clary.host.supervisor import ImageUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from clary.host.spec import HostSpec
    from clary.images.build import BuiltImage


def prepare(spec: HostSpec, progress: Callable[[str], None]) -> BuiltImage:
    """The image's environment, built when it is not there yet; raises `ImageUnavailable` when it cannot be had."""
    from clary.images import horovod
    from clary.images.build import ensure
    from clary.images.catalog import resolve
    from clary.images.errors import ImageError

    try:
        recipe = resolve(spec.image)
        built = ensure(recipe, Path(spec.images_home), progress)
    except ImageError as error:
        raise ImageUnavailable(str(error)) from error
    if spec.hyperparameters.get("sagemaker_mpi_enabled") == "true" and horovod.fits(recipe):
        notices = horovod.ensure(recipe, built.root, progress)
        return dataclasses.replace(built, notices=built.notices + notices)
    return built


def prepare_to_serve(image: str, images_home: str, progress: Callable[[str], None]) -> BuiltImage:
    """The environment of an image that is to serve a model; raises `ImageUnavailable` when it cannot be had."""
    from clary.images.build import ensure
    from clary.images.catalog import resolve_serving
    from clary.images.errors import ImageError

    try:
        return ensure(resolve_serving(image), Path(images_home), progress)
    except ImageError as error:
        raise ImageUnavailable(str(error)) from error
