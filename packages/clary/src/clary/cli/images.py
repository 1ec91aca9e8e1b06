"""`clary images ls|pull|rm`: the framework environments on this machine."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clary.cli.options import HomeOption, JsonOption, resolve_home
from clary.cli.output import CliError, emit_json, say, stderr, stdout

if TYPE_CHECKING:
    from pathlib import Path

    from clary.images.errors import ImageError
    from clary.images.own import OwnImage
    from clary.images.store import StoredImage

app = typer.Typer(help="Framework environments: list, build and remove them.", no_args_is_help=True)

_ANNOUNCED = re.compile(r"Downloading (\S+) \(([\d.]+)([KMG])iB\)")
_ARRIVED = re.compile(r"Downloaded (\S+)")
_MEBIBYTES = {"K": 1 / 1024, "M": 1.0, "G": 1024.0}


@app.command("ls")
def ls(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the images that are built, and those of your own that can run."""
    from clary.images.store import list_images

    images = list_images(resolve_home(home) / "images")
    own = _own_images(resolve_home(home) / "images")
    if as_json:
        emit_json([*(_as_data(image) for image in images), *(_own_as_data(image) for image in own)])
        return
    if own:
        say(f"Your own, in {own[0].engine.name}'s store: {', '.join(image.name for image in own)}.")
    if not images:
        say("No images are built yet. A job builds the one it needs; `clary images pull IMAGE` builds it beforehand.")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("IMAGE", "PYTHON", "OWN", "SHARED", "LAST USED", ""):
        table.add_column(column, justify="right" if column in ("OWN", "SHARED") else "left", no_wrap=True)
    for image in images:
        sizes = (_size(image.own_bytes), _size(image.shared_bytes))
        table.add_row(image.name, image.python, *sizes, _ago(image.last_used), "in use" if image.in_use else "")
    console = stdout()
    console.print(table)
    own = sum(image.own_bytes for image in images)
    count = "1 image" if len(images) == 1 else f"{len(images)} images"
    say(f"{count}; removing all frees {_size(own)}. SHARED lies in uv's cache and other images too.")


@app.command("pull")
def pull(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...", help="Image URIs, for instance tensorflow-training:2.19-cpu-py312 or python:3.11."
        ),
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build images, so that no job has to wait for them."""
    from clary.images.build import ensure
    from clary.images.catalog import resolve_by_name
    from clary.images.errors import ImageError

    images_home = resolve_home(home) / "images"
    done: list[dict[str, Any]] = []
    for uri in images:
        began = time.monotonic()
        try:
            image = resolve_by_name(uri)
            with _progress(image.name) as progress:
                built = ensure(image, images_home, progress)
        except ImageError as error:
            if as_json:
                emit_json([*done, {"image": uri, "error": error.reason, "nearest": error.nearest}])
            raise _cli_error(error) from None
        seconds = round(time.monotonic() - began, 1)
        for notice in built.notices:
            say(f"Note: {notice}")
        say(f"{image.name} is ready ({seconds:.1f} s).")
        done.append(
            {
                "image": uri,
                "name": image.name,
                "root": str(built.root),
                "seconds": seconds,
                "notices": list(built.notices),
            }
        )
        built.release()
    if as_json:
        emit_json(done)


@app.command("rm")
def rm(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Names as `clary images ls` shows them, or URIs.")
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove images that no running job uses."""
    from clary.images.errors import ImageError
    from clary.images.store import find, remove

    images_home = resolve_home(home) / "images"
    removed: list[dict[str, Any]] = []
    try:
        wanted = {image.root: image for name in images for image in find(images_home, name)}
        for image in wanted.values():
            freed = remove(images_home, image)
            say(f"Removed {image.name}: {_size(freed)} freed.")
            removed.append({"name": image.name, "root": str(image.root), "freed_bytes": freed})
    except ImageError as error:
        if as_json:
            emit_json([*removed, {"error": error.reason, "nearest": error.nearest}])
        raise _cli_error(error) from None
    if as_json:
        emit_json(removed)


@contextmanager
def _progress(name: str) -> Generator[Callable[[str], None]]:
    """Shows a build: a bar over the bytes to download on a terminal, sentences elsewhere."""
    console = stderr()
    if not console.is_terminal:
        yield say
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    sizes: dict[str, float] = {}
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None, amount="")

        def show(message: str) -> None:
            if announced := _ANNOUNCED.match(message):
                sizes[announced[1]] = float(announced[2]) * _MEBIBYTES[announced[3]]
                total = sum(sizes.values())
                bar.update(task, description=f"{name}: downloading", total=total, amount=f"{total:.0f} MiB")
            elif arrived := _ARRIVED.match(message):
                bar.advance(task, sizes.get(arrived[1], 0.0))
            elif message.startswith(("Prepared", "Installed", "Bytecode", "Trying")):
                bar.update(task, description=f"{name}: {_step(message)}", total=None, amount="")
            else:
                bar.update(task, description=message)

        yield show


def _step(message: str) -> str:
    """What is being done once uv has said what it has finished."""
    if message.startswith("Prepared"):
        return "installing"
    return "compiling" if message.startswith("Installed") else "trying it"


def _own_images(images_home: Path) -> list[OwnImage]:
    """Those that the engine has; none where nobody has ever asked for one, as finding an engine takes a while."""
    from clary.images.engine import EngineError, EngineUnavailable, has_been_tried
    from clary.images.own import list_own

    if not has_been_tried(images_home):
        return []
    try:
        return list_own(images_home)
    except (EngineUnavailable, EngineError) as error:
        say(f"Your own images cannot be listed: {error}.")
        return []


def _own_as_data(image: OwnImage) -> dict[str, Any]:
    return {"name": image.name, "image": image.uri, "framework": "own", "engine": image.engine.name, "id": image.id}


def _as_data(image: StoredImage) -> dict[str, Any]:
    return {
        "name": image.name,
        "image": image.uri,
        "root": str(image.root),
        "framework": image.framework,
        "version": image.version,
        "device": image.device,
        "python": image.python,
        "own_bytes": image.own_bytes,
        "shared_bytes": image.shared_bytes,
        "created": image.created,
        "last_used": image.last_used,
        "in_use": image.in_use,
    }


def _cli_error(error: ImageError) -> CliError:
    return CliError(error.reason, f"The nearest that works here: {error.nearest}" if error.nearest else "")


def _size(count: int) -> str:
    mebibytes = count / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
