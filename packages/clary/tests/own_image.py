"""An image of a user's own for the tests, without a network: one static C program, put into podman's store."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest

from clary.images.engine import Engine, EngineUnavailable, Wish, find
from clary.images.own import BIND_TO_PORT, MULTI_MODELS

SOURCE = Path(__file__).with_name("own_image.c")
_ENGINE = os.environ.get("CLARY_TEST_ENGINE", "")  # for instance "docker"; empty: what works here
HOME = Path.home() / ".cache" / "clary-test-images-oci" / (_ENGINE.replace("/", "-") or "any")  # keeps which works


@cache
def engine() -> Engine:
    """The engine that runs containers here; skips the test where there is none."""
    try:
        HOME.mkdir(parents=True, exist_ok=True)
        return find(HOME, Wish(_ENGINE))
    except EngineUnavailable as error:
        pytest.skip(f"needs podman or docker: {error}")


def own_image() -> str:
    """The image's name in the store, where it stays between runs. It answers for several models too."""
    return _image("own", (f"LABEL {MULTI_MODELS}=true", f"LABEL {BIND_TO_PORT}=true"))


def plain_image() -> str:
    """The same without the labels by which an image says what it can."""
    return _image("plain", ())


def somebodys_image() -> str:
    """The same with a user who is not root."""
    return _image("somebodys", ("USER 1234",))


def image_with_code() -> str:
    """The same with a file of its own in /opt/ml/code, where AWS's recipe puts an image's programs."""
    return _image("coded", (), (("opt/ml/code/words", b"of the image"),))


def containers_of(host_id: str) -> list[str]:
    """The containers in the store that belong to a host, running or not."""
    return engine().call("ps", "--all", "--quiet", "--filter", f"label=clary.host={host_id}").split()


@cache
def _image(kind: str, changes: tuple[str, ...], files: tuple[tuple[str, bytes], ...] = ()) -> str:
    program = engine()
    name = f"localhost/clary-test-{kind}:{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if subprocess.run(program.command("image", "inspect", name), capture_output=True, check=False).returncode == 0:
        return name
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc, to make an image without a network")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "own"
        subprocess.run(["gcc", "-static", "-O1", "-w", "-pthread", "-o", built, SOURCE], check=True)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(built, "bin/own")
            for path in ("etc", "tmp"):
                member = tarfile.TarInfo(path)
                member.type, member.mode = tarfile.DIRTYPE, 0o1777
                tar.addfile(member)
            for path, content in files:
                member = tarfile.TarInfo(path)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    words = [word for change in ('ENTRYPOINT ["/bin/own"]', "ENV OWN=image", *changes) for word in ("--change", change)]
    program.call("import", *words, "-", name, given=archive.getvalue())
    return name
