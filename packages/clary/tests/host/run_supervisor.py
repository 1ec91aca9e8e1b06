"""A supervisor whose image is a folder that is there already, and whose store is the folder beside the host's.

An image that is no path is prepared as a job's is.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clary.host import image_preparation
from clary.host.layout import HostFolder
from clary.host.spec import HostSpec
from clary.host.store_transfers import StoreTransfers
from clary.host.supervisor import supervise
from clary.host.transfers import TransferError


@dataclass(frozen=True)
class FolderImage:
    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    command_train: tuple[str, ...] = ("train",)
    command_serve: tuple[str, ...] = ("serve",)
    read_only_paths: tuple[Path, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"


def prepare(spec: HostSpec, progress: Callable[[str], None]):
    progress("looking for the image")
    return FolderImage(Path(spec.image)) if spec.image.startswith("/") else image_preparation.prepare(spec, progress)


class FolderTransfers:
    """Channels and results lie in a folder instead of a store."""

    def download(self, spec: HostSpec, folder: HostFolder) -> None:
        for channel in spec.channels:
            source = Path(channel.s3_uri.removeprefix("file://"))
            if not source.exists():
                raise TransferError(f"No objects found under {channel.s3_uri}.", by_request=True)
            shutil.copytree(source, folder.input_data / channel.name, dirs_exist_ok=True)

    def follow(self, spec, folder, report):
        return lambda: None

    def upload(self, spec: HostSpec, folder: HostFolder, *, with_model: bool) -> str | None:
        results = _results(spec, folder)
        shutil.copytree(folder.output_data, results / "output", dirs_exist_ok=True)
        if not with_model:
            return None
        shutil.copytree(folder.model, results / "model", dirs_exist_ok=True)
        return spec.output.model_uri

    def stage(self, spec: HostSpec, folder: HostFolder) -> None:
        shutil.copytree(folder.model, _results(spec, folder) / "staged" / spec.host)

    def merge(self, spec: HostSpec, folder: HostFolder) -> str | None:
        shutil.copytree(folder.model, _results(spec, folder) / "model")
        for staged in (_results(spec, folder) / "staged").glob("*"):
            shutil.copytree(staged, _results(spec, folder) / "model", dirs_exist_ok=True)
        return spec.output.model_uri


def _results(spec: HostSpec, folder: HostFolder) -> Path:
    results = folder.root.parent / f"results-{spec.job_name}"
    results.mkdir(exist_ok=True)
    return results


if __name__ == "__main__":
    if os.environ.get("TEST_WITHOUT_BUBBLEWRAP"):
        programs = Path(sys.argv[1]).parent / "programs"
        programs.mkdir(exist_ok=True)
        for folder in os.environ["PATH"].split(":"):
            for program in Path(folder).iterdir() if Path(folder).is_dir() else ():
                if program.name != "bwrap" and not (programs / program.name).is_symlink():
                    (programs / program.name).symlink_to(program)
        os.environ["PATH"] = str(programs)
    supervise(Path(sys.argv[1]), prepare, StoreTransfers() if os.environ.get("TEST_WITH_STORE") else FolderTransfers())
    sys.stdout.flush()
    os._exit(0)
