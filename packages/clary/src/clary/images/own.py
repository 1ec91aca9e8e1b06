"""Images of the user's own: those in podman's or docker's store on this machine, which nothing is ever fetched into."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clary.images.engine import INSTALL_PODMAN, Engine, EngineError, EngineUnavailable, Wish, find
from clary.images.errors import ImageError
from clary.images.reference import ImageReference, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clary.images.catalog import FrameworkImage

MULTI_MODELS = "com.amazonaws.sagemaker.capabilities.multi-models"  # labels by which images say what they can
BIND_TO_PORT = "com.amazonaws.sagemaker.capabilities.accept-bind-to-port"
_DOCKER_HUB = "docker.io/"


@dataclass(frozen=True)
class OwnImage:
    """An image in the engine's store.

    Args:
        uri: the image as it was asked for.
        name: what it is called in the store.
        id: of its content; containers are made of this, whatever the name means by then.
        engine: whose store it is in.
        environment: the variables that it sets.
        command: what its ENTRYPOINT and CMD run.
        labels: what it says of itself.
        size_bytes: as the store counts it.
        notices: lines for the head of a job's log.
    """

    uri: str
    name: str
    id: str
    engine: Engine
    environment: dict[str, str] = field(default_factory=dict[str, str])
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict[str, str])
    size_bytes: int = 0
    notices: tuple[str, ...] = ()


def find_own(uri: str, home: Path, wish: Wish | None = None) -> OwnImage:
    """The image in this machine's store that `uri` names: by its full name, else without the registry.

    Args:
        uri: an image URI, of any registry.
        home: the images' home.
        wish: what the settings say of the engine; None: what they said the last time.

    Raises:
        ImageError: there is none, or no engine. The error says what to do.
    """
    reference = parse(uri)
    try:
        engine = find(home, wish)
    except EngineUnavailable as error:
        raise ImageError(
            f"An image of your own needs podman or docker: {error}. To run {uri}, {INSTALL_PODMAN}."
        ) from error
    try:
        rows = _rows(engine)
        name = _choose(reference, [(row[0], row[1]) for row in rows])
        if name is not None:
            return _described(uri, name, engine)
    except EngineError as error:
        raise ImageError(f"{engine.name} could not say which images there are: {error}") from error
    short = f"{reference.repository}:{reference.tag or 'latest'}"
    raise ImageError(
        f"{engine.name}'s store on this machine has no image {uri}, nor one called {short}. To put it there: "
        f"{engine.name} build -t {short} . (or {engine.name} load -i ARCHIVE). Nothing is ever pulled from a registry."
    )


def choose(
    uri: str, recipe: Callable[[str], FrameworkImage], home: Path, wish: Wish | None = None
) -> FrameworkImage | OwnImage:
    """What `uri` means: the environment that a recipe makes, else an image in this machine's store.

    Args:
        uri: an image URI.
        recipe: finds how a framework image is made: `catalog.resolve` or `catalog.resolve_serving`.
        home: the images' home.
        wish: what the settings say of the engine; None: what they said the last time.

    Raises:
        ImageError: it means neither. Where Clary knows the framework, the error is of its recipe.
    """
    try:
        return recipe(uri)
    except ImageError as no_recipe:
        try:
            return find_own(uri, home, wish)
        except ImageError as no_image:
            reference = parse(uri)
            known = True
            try:
                recipe(reference.sibling(reference.name, "latest"))
            except ImageError:
                known = False
            if known:
                raise no_recipe from None
            raise ImageError(f"{no_recipe.reason} {no_image.reason}", no_recipe.nearest) from None


def list_own(home: Path, wish: Wish | None = None) -> list[OwnImage]:
    """The images of the engine's store that have names; raises `EngineUnavailable` or `EngineError`."""
    engine = find(home, wish)
    return [
        OwnImage(uri=name, name=name, id=identity.removeprefix("sha256:"), engine=engine)
        for name, _, identity in _rows(engine)
        if "/clary-trial" not in name
    ]


def _rows(engine: Engine) -> list[tuple[str, str, str]]:
    """Name with tag, digest and ID of every image that has a name."""
    form = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}"
    listed = engine.call("images", "--no-trunc", "--format", form).splitlines()
    parts = [line.split("\t") for line in listed]
    return [(f"{part[0]}:{part[1]}", part[2], part[3]) for part in parts if len(part) == 4 and "<none>" not in part[:2]]


def _choose(reference: ImageReference, rows: list[tuple[str, str]]) -> str | None:
    """The name of the row that a reference means. `rows` are names with tags, and digests."""
    repository = f"{reference.registry}/{reference.repository}" if reference.registry else reference.repository
    if reference.digest and not reference.tag:
        return next((name for name, digest in rows if digest == reference.digest), None)
    tag = reference.tag or "latest"
    names = [name for name, digest in rows if not reference.digest or digest == reference.digest]
    full = f"{repository}:{tag}"
    if full in names:
        return full
    short = f"{reference.repository}:{tag}"
    of_any = [name for name in names if _without_registry(name) == short]
    of_any.sort(key=lambda name: (not name.startswith("localhost/"), name))
    return of_any[0] if of_any else None


def _without_registry(name: str) -> str:
    head, _, rest = name.partition("/")
    if rest and ("." in head or ":" in head or head == "localhost"):
        return rest.removeprefix("library/") if name.startswith(_DOCKER_HUB) else rest
    return name


def _described(uri: str, name: str, engine: Engine) -> OwnImage:
    shown: dict[str, Any] = json.loads(engine.call("image", "inspect", name))[0]
    config: dict[str, Any] = shown.get("Config") or {}
    identity = str(shown["Id"]).removeprefix("sha256:")
    variables = dict(entry.split("=", 1) for entry in config.get("Env") or () if "=" in entry)
    return OwnImage(
        uri=uri,
        name=name,
        id=identity,
        engine=engine,
        environment=variables,
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        labels=dict(config.get("Labels") or {}),
        size_bytes=int(shown.get("Size") or 0),
        notices=(f"This is the image {name} of {engine.name}'s store, {identity[:12]}.",),
    )
