"""That SDK v3 wants its script started by MPI is read from the drivers that it has put into the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from clary.host import image_preparation, sdk_drivers
from clary.host.spec import Channel, HostSpec
from clary.images import horovod
from clary.images.build import BuiltImage
from clary.settings import Settings
from clary.storage.access import StoreAccess
from clary.storage.client import ObjectStore
from clary.storage.seaweed import EmbeddedStore

pytestmark = pytest.mark.asyncio(loop_scope="module")

DRIVER = 'echo "Running {0} Driver"\n$SM_PYTHON_CMD /opt/ml/input/data/sm_drivers/distributed_drivers/{0}_driver.py\n'
CODE = Channel(name="code", s3_uri="s3://bucket/mpi/code/")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def access(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StoreAccess]:
    embedded = EmbeddedStore(Settings(home=tmp_path_factory.mktemp("home")))
    await embedded.start()
    client = ObjectStore(embedded.access)
    await client.create_bucket("bucket")
    for name in ("mpi", "torchrun", "basic_script"):
        await client.write("bucket", f"{name}/sm_drivers/sm_train.sh", DRIVER.format(name).encode())
    await client.close()
    yield embedded.access
    await embedded.stop()


def drivers(name: str, end: str = "/") -> Channel:
    return Channel(name="sm_drivers", s3_uri=f"s3://bucket/{name}/sm_drivers{end}")


@pytest.mark.parametrize(
    ("channels", "wanted"),
    [
        ((CODE, drivers("mpi")), True),
        ((CODE, drivers("mpi", end="")), True),
        ((CODE, drivers("torchrun")), False),
        ((CODE, drivers("basic_script")), False),
        ((CODE, drivers("missing")), False),
        ((CODE,), False),
    ],
)
async def test_the_drivers_script_tells(access: StoreAccess, channels: tuple[Channel, ...], wanted: bool) -> None:
    assert await asyncio.to_thread(sdk_drivers.start_mpi, channels, access) == wanted


@pytest.mark.parametrize(
    ("hyperparameters", "channels", "tag", "built"),
    [
        ({}, (drivers("mpi"),), "2.15-cpu-py310", True),
        ({}, (drivers("torchrun"),), "2.15-cpu-py310", False),
        ({}, (drivers("mpi"),), "2.19-cpu-py312", False),
        ({"sagemaker_mpi_enabled": "true"}, (), "2.15-cpu-py310", True),
        ({}, (), "2.15-cpu-py310", False),
    ],
)
async def test_horovod_is_built_for_jobs_by_mpi_of_either_sdk(
    access: StoreAccess,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    hyperparameters: dict[str, str],
    channels: tuple[Channel, ...],
    tag: str,
    built: bool,
) -> None:
    # An image takes minutes to make, and Horovod two more: what is shown here is for whom it is asked.
    image = BuiltImage(tmp_path, tmp_path / "python", {}, (), (), ())
    asked: list[Path] = []
    monkeypatch.setattr(image_preparation, "_prepare", lambda *_: image)
    monkeypatch.setattr(horovod, "ensure", lambda recipe, root, progress: asked.append(root) or ("a notice",))
    spec = HostSpec.model_construct(
        image=f"tensorflow-training:{tag}",
        images_home=str(tmp_path),
        hyperparameters=hyperparameters,
        channels=channels,
        store=access,
    )
    prepared = await asyncio.to_thread(image_preparation.prepare, spec, print)
    assert asked == ([tmp_path] if built else [])
    assert prepared.notices == (("a notice",) if built else ())
