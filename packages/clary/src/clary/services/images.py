"""Whether there is the image that a request names, with SageMaker's words where there is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from clary.images.catalog import FrameworkImage
from clary.images.engine import Wish
from clary.images.errors import ImageError
from clary.images.own import OwnImage, choose
from clary.images.reference import parse
from clary.services.registry import Context
from clary.wire.errors import ValidationError


async def check_image(
    context: Context, uri: str, role: str, recipe: Callable[[str], FrameworkImage]
) -> OwnImage | None:
    """An image that nobody has is refused at once. A version that cannot be built fails the job, with the reason.

    Args:
        context: whose settings say where images are and which engine runs the user's own.
        uri: the image.
        role: who would fetch it, for the message.
        recipe: finds how a framework image is made, or raises ImageError.

    Returns:
        The image when it is one of the user's own.

    Raises:
        ValidationError: there is no such image.
    """
    try:
        reference = parse(uri)
    except ImageError as error:
        raise ValidationError(f"Invalid image URI {uri}. {error}") from None
    try:
        recipe(reference.sibling(reference.name, "latest"))
    except ImageError:
        pass
    else:
        return None
    settings = context.settings
    wish = Wish(settings.container_engine, settings.container_options)
    try:
        image = await asyncio.to_thread(choose, uri, recipe, settings.home / "images", wish)
    except ImageError as error:
        raise ValidationError(
            f"Cannot find repository: {reference.repository} in registry ID: {reference.account or reference.registry} "
            f"Please check if your ECR repository exists and role {role} has proper pull permissions for SageMaker: "
            f"ecr:BatchCheckLayerAvailability, ecr:BatchGetImage, ecr:GetDownloadUrlForLayer. {error}"
        ) from None
    return image if isinstance(image, OwnImage) else None
