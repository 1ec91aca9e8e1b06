"""The laboratory of the toolkit's tests: /opt/ml trees, launchers run on them, the Pythons of this machine."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uv import find_uv_bin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SOURCE = Path(__file__).parents[1] / "src"
SCRIPTS = Path(__file__).parent / "scripts"
VERSIONS = ("3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
# Only these of our own environment reach a launcher under test: what it shows the script must come from the job.
PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")


def find_python(version: str) -> str | None:
    """An interpreter of this version: pyenv's, else the one on PATH."""
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    candidates = [str(path / "bin" / "python") for path in sorted(root.glob(f"{version}.*"), reverse=True)]
    on_path = shutil.which(f"python{version}")
    for candidate in [*candidates, *([on_path] if on_path else [])]:
        asked = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
        )
        if asked.stdout.strip() == version:
            return candidate
    return None


@dataclass
class Ended:
    """How a launcher ended and what it left behind."""

    exit_code: int
    output: str
    failure: str | None
    succeeded: bool
    probe: dict[str, Any] | None


@dataclass
class Tree:
    """An /opt/ml tree: `code` by path, `hyperparameters` as in the request, `channels` by name.

    `files` are further files by their paths in the tree, `missing` files of input/config that are left out. In the
    hyperparameters {base} stands for the path of the tree.
    """

    code: Mapping[str, str | bytes] = field(default_factory=dict)
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    resource_config: Mapping[str, object] = field(
        default_factory=lambda: {
            "current_host": "algo-1",
            "current_instance_type": "ml.c5.xlarge",
            "current_group_name": "homogeneousCluster",
            "hosts": ["algo-1"],
            "instance_groups": [
                {
                    "instance_group_name": "homogeneousCluster",
                    "instance_type": "ml.c5.xlarge",
                    "hosts": ["algo-1"],
                }
            ],
            "network_interface_name": "eth0",
            "topology": None,
        }
    )

    def lay_out(self, base: Path) -> Path:
        """Write the tree to `base`, anew."""
        shutil.rmtree(base, ignore_errors=True)
        config = base / "input" / "config"
        for folder in (config, base / "model", base / "output" / "data", base / "code"):
            folder.mkdir(parents=True)
        for name in self.channels:
            (base / "input" / "data" / name).mkdir(parents=True)
        write_files(base / "code", self.code)
        hyperparameters = {key: value.replace("{base}", str(base)) for key, value in self.hyperparameters.items()}
        (config / "hyperparameters.json").write_text(json.dumps(hyperparameters))
        (config / "inputdataconfig.json").write_text(json.dumps(self.channels))
        (config / "resourceconfig.json").write_text(json.dumps(self.resource_config))
        write_files(base, self.files)
        for name in self.missing:
            (config / name).unlink()
        return base


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files by their relative paths."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def run_launcher(command: list[str], base: Path, variables: Mapping[str, str] | None = None) -> Ended:
    """Run a launcher on the tree at `base` and collect what came of it."""
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment.update({"SAGEMAKER_BASE_DIR": str(base), "PYTHONDONTWRITEBYTECODE": "1", **(variables or {})})
    # A folder of the test's own: `python -m` puts the current one on the path.
    done = subprocess.run(
        command,
        cwd=base.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    failure, probe = base / "output" / "failure", base / "output" / "data" / "probe.json"
    return Ended(
        exit_code=done.returncode,
        output=done.stdout.decode("utf-8", "replace"),
        failure=failure.read_text() if failure.exists() else None,
        succeeded=(base / "output" / "success").exists(),
        probe=json.loads(probe.read_text()) if probe.exists() else None,
    )


def make_archive(path: Path, files: Mapping[str, str | bytes]) -> Path:
    """A sourcedir.tar.gz as the SDK makes it."""
    folder = path.parent / (path.name + ".d")
    write_files(folder, files)
    with tarfile.open(path, "w:gz", dereference=True) as tar:
        for entry in sorted(folder.iterdir()):
            tar.add(entry, arcname=entry.name)
    return path


def cached_target(name: str, python: Path, packages: Sequence[str]) -> Path:
    """A folder with packages from the registry for this Python, made by uv once and kept."""

    def fill(folder: Path) -> None:
        command = [find_uv_bin(), "pip", "install", "--quiet", "--python", str(python), "--target", str(folder)]
        subprocess.run([*command, *packages], check=True)

    return _cached(name, [str(python), *packages], fill)


def cached_environment(name: str, installs: Sequence[Sequence[str]]) -> Path:
    """A virtual environment of this Python with packages from the registry, made by uv once and kept.

    Each of `installs` are the words of one `uv pip install`.
    """
    uv = find_uv_bin()

    def fill(folder: Path) -> None:
        python = ["--quiet", "--python", str(folder / "bin" / "python")]
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        for words in installs:
            subprocess.run([uv, "pip", "install", *python, *words], check=True)

    return _cached(name, [installs, sys.version_info[:3]], fill)


def _cached(name: str, recipe: object, fill: Callable[[Path], None]) -> Path:
    """A folder that `fill` has filled by this recipe, once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clary-tests"
    folder = cache / f"{name}-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            fill(folder)
            (folder / "complete").touch()
    return folder
