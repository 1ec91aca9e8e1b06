"""A replica's supervisor whose image is a folder that is there already, and whose model lies in a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clary.host import image_preparation
from clary.host.archives import extract
from clary.host.serving import Patience, serve_replica
from clary.host.serving_spec import ModelSource
from clary.host.transfers import TransferError
from clary.storage.access import StoreAccess


@dataclass(frozen=True)
class FolderImage:
    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    command_train: tuple[str, ...] = ("train",)
    command_serve: tuple[str, ...] = ("python", "/opt/ml/model/code/serve.py")
    read_only_paths: tuple[Path, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"


def prepare(image: str, images_home: str, progress: Callable[[str], None]):
    progress("looking for the image")
    if image.startswith("/"):
        return FolderImage(Path(image))
    return image_preparation.prepare_to_serve(image, images_home, progress)


def fetch(source: ModelSource, access: StoreAccess, folder: Path) -> None:
    archive = Path(source.s3_uri.removeprefix("file://"))
    if not archive.exists():
        raise TransferError(f"Could not find model data at {source.s3_uri}.", by_request=True)
    extract(archive, folder)


if __name__ == "__main__":
    stop = float(os.environ.get("TEST_STOP_SECONDS", "5"))
    patience = Patience(between_pings=0.2, hung=1.0, settle=0.1, stop=stop, restarts=(0.05, 0.05), ping=0.5)
    serve_replica(Path(sys.argv[1]), prepare, fetch, patience)
    sys.stdout.flush()
    os._exit(0)
