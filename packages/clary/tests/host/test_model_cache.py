"""Which models a container has loaded, against a real object store and a container of a few lines."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clary.host.model_cache import LoadFailed, ModelCache, Reply
from clary.host.model_disk import ModelDisk, ModelUnavailable, opaque_name, relative_key
from clary.settings import Settings
from clary.storage.client import ObjectStore
from clary.storage.seaweed import EmbeddedStore

BUCKET = "models"


@dataclass
class Container:
    """Has room for some models; loads each when `gate` is open."""

    room: int = 100
    loaded: dict[str, str] = field(default_factory=dict)
    orders: list[tuple[str, str]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: Reply | None = None

    async def __call__(self, method: str, path: str, body: bytes, seconds: float) -> Reply:
        name = path.removeprefix("/models").removeprefix("/")
        if method == "POST":
            order = json.loads(body)
            name = order["model_name"]
            await self.gate.wait()
            self.orders.append(("load", name))
            if self.refusal is not None:
                return self.refusal
            if len(self.loaded) >= self.room:
                return Reply(507, b"full")
            self.loaded[name] = order["url"]
        elif method == "DELETE":
            self.orders.append(("unload", name))
            if self.loaded.pop(name, None) is None:
                return Reply(404, b"")
        elif name not in self.loaded:
            return Reply(404, b"")
        return Reply(200, b"{}")


@dataclass
class Lab:
    """A cache, its container and its store."""

    store: ObjectStore
    container: Container
    folder: Path
    measured: list[tuple[str, float]] = field(default_factory=list)

    def cache(self, **members: Any) -> ModelCache:
        disk = ModelDisk(f"s3://{BUCKET}/several", self.store, self.folder)
        measure: Callable[[str, float], None] = lambda name, value: self.measured.append((name, value))  # noqa: E731
        return ModelCache(disk, self.container, "/opt/ml/models", measure, **members)

    async def put(self, *names: str) -> None:
        for name in names:
            archive = io.BytesIO()
            with tarfile.open(fileobj=archive, mode="w:gz") as tar:
                member = tarfile.TarInfo("weights")
                member.size = len(name)
                tar.addfile(member, io.BytesIO(name.encode()))
            await self.store.write(BUCKET, f"several/{name}", archive.getvalue())

    def on_disk(self, name: str) -> bool:
        return (self.folder / opaque_name(name) / "model" / "weights").exists()


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    loop = asyncio.new_event_loop()
    store = EmbeddedStore(Settings(home=tmp_path_factory.mktemp("home")))
    loop.run_until_complete(store.start())
    yield store
    loop.run_until_complete(store.stop())
    loop.close()


@pytest.fixture
def run(embedded: EmbeddedStore, tmp_path: Path) -> Callable[[Callable[[Lab], Coroutine[Any, Any, None]]], None]:
    """Runs a test in a loop of its own, with a lab."""

    @asynccontextmanager
    async def lab() -> AsyncIterator[Lab]:
        store = ObjectStore(embedded.access)
        await store.create_bucket(BUCKET)
        made = Lab(store, Container(), tmp_path)
        made.container.gate.set()
        yield made
        await store.close()

    async def whole(test: Callable[[Lab], Coroutine[Any, Any, None]]) -> None:
        async with asyncio.timeout(20), lab() as made:
            await test(made)

    return lambda test: asyncio.run(whole(test))


def test_one_load_serves_all_who_wait_for_it(run: Any) -> None:
    async def test(lab: Lab) -> None:
        cache = lab.cache()
        await lab.put("a.tar.gz")

        async def ask() -> tuple[bool, str]:
            async with cache.use("a.tar.gz") as use:
                return use.hit, lab.container.loaded[use.name]

        answers = await asyncio.gather(*(ask() for _ in range(20)))
        name = opaque_name("a.tar.gz")
        assert answers == [(False, f"/opt/ml/models/{name}/model")] * 20
        assert lab.container.orders == [("load", name)]
        assert (await ask())[0], "it is loaded by now"
        assert {name for name, _ in lab.measured} == {"ModelDownloadingTime", "ModelLoadingTime", "LoadedModelCount"}

    run(test)


def test_the_least_recently_used_model_makes_room_and_its_files_stay(run: Any) -> None:
    async def test(lab: Lab) -> None:
        lab.container.room = 2
        cache = lab.cache()
        await lab.put("a.tar.gz", "b.tar.gz", "c.tar.gz")
        for name in ("a.tar.gz", "b.tar.gz", "a.tar.gz", "c.tar.gz"):
            async with cache.use(name):
                pass
        assert set(lab.container.loaded) == {opaque_name("a.tar.gz"), opaque_name("c.tar.gz")}
        assert lab.on_disk("b.tar.gz")
        downloads = [name for name, _ in lab.measured].count("ModelDownloadingTime")
        async with cache.use("b.tar.gz"):
            pass
        assert [name for name, _ in lab.measured].count("ModelDownloadingTime") == downloads

    run(test)


def test_a_model_in_use_is_not_unloaded_and_the_next_load_waits_for_it(run: Any) -> None:
    async def test(lab: Lab) -> None:
        lab.container.room = 1
        cache = lab.cache()
        await lab.put("a.tar.gz", "b.tar.gz")

        async def second() -> None:
            async with cache.use("b.tar.gz"):
                pass

        async with cache.use("a.tar.gz") as use:
            waiting = asyncio.create_task(second())
            while ("load", opaque_name("b.tar.gz")) not in lab.container.orders:
                await asyncio.sleep(0.005)
            assert use.name in lab.container.loaded
        await waiting
        assert set(lab.container.loaded) == {opaque_name("b.tar.gz")}

    run(test)


def test_a_load_that_takes_long_goes_on_while_requests_are_told_to_come_again(run: Any) -> None:
    async def test(lab: Lab) -> None:
        lab.container.gate.clear()
        cache = lab.cache(wait_seconds=0.05)
        await lab.put("a.tar.gz")
        for _ in range(2):
            with pytest.raises(ModelUnavailable) as caught:
                async with cache.use("a.tar.gz"):
                    pass
            assert caught.value.kind == "ModelNotReadyException"
        lab.container.gate.set()
        while not lab.container.loaded:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        async with cache.use("a.tar.gz"):
            assert len(lab.container.orders) == 1

    run(test)


def test_what_the_container_says_of_a_model_that_it_cannot_load_is_passed_on(run: Any) -> None:
    async def test(lab: Lab) -> None:
        cache = lab.cache()
        await lab.put("a.tar.gz")
        for reply in (Reply(500, b"broken"), Reply(507, b"never enough")):
            lab.container.refusal = reply
            with pytest.raises(LoadFailed) as caught:
                async with cache.use("a.tar.gz"):
                    pass
            assert caught.value.reply is reply
        lab.container.refusal = None
        async with cache.use("a.tar.gz") as use:
            assert not use.hit

    run(test)


def test_a_container_that_was_started_again_is_given_its_models_again(run: Any) -> None:
    async def test(lab: Lab) -> None:
        cache = lab.cache()
        await lab.put("a.tar.gz")
        async with cache.use("a.tar.gz"):
            pass
        lab.container.loaded.clear()
        cache.forget_loaded()
        async with cache.use("a.tar.gz") as use:
            assert (use.hit, use.name in lab.container.loaded) == (False, True)
        lab.container.loaded.clear()
        async with cache.use("a.tar.gz") as use:
            assert use.hit
            assert await cache.lost(use)
        async with cache.use("a.tar.gz") as use:
            assert not use.hit

    run(test)


def test_a_changed_archive_is_fetched_when_its_model_is_loaded_again(run: Any) -> None:
    async def test(lab: Lab) -> None:
        cache = lab.cache(keep=False)
        await lab.put("a.tar.gz")
        place = lab.folder / opaque_name("a.tar.gz") / "model"
        async with cache.use("a.tar.gz"):
            assert (place / "weights").read_text() == "a.tar.gz"
        await lab.put("other.tar.gz")
        await lab.store.write(BUCKET, "several/a.tar.gz", await lab.store.read(BUCKET, "several/other.tar.gz"))
        async with cache.use("a.tar.gz") as use:
            assert not use.hit
            assert (place / "weights").read_text() == "other.tar.gz"

    run(test)


def test_names_that_name_nothing_leave_nothing_behind(run: Any) -> None:
    async def test(lab: Lab) -> None:
        cache = lab.cache()
        for number in range(50):
            with pytest.raises(ModelUnavailable, match="Failed to download model data") as caught:
                async with cache.use(f"none-{number}.tar.gz"):
                    pass
            assert caught.value.kind == "ValidationError"
        assert not cache._models  # pyright: ignore[reportPrivateUsage]
        assert list(lab.folder.iterdir()) == []

    run(test)


@pytest.mark.slow
def test_a_thousand_models_pass_through_a_container_with_room_for_ten(run: Any) -> None:
    async def test(lab: Lab) -> None:
        lab.container.room = 10
        cache = lab.cache()
        names = [f"{number}.tar.gz" for number in range(1000)]
        await lab.put("0.tar.gz")
        archive = await lab.store.read(BUCKET, "several/0.tar.gz")
        await asyncio.gather(*(lab.store.write(BUCKET, f"several/{name}", archive) for name in names))

        async def ask(mine: list[str]) -> None:
            for name in mine:
                async with cache.use(name) as use:
                    assert use.name in lab.container.loaded

        await asyncio.gather(*(ask(names[start::8]) for start in range(8)))
        assert len(lab.container.loaded) == 10

    run(test)


@pytest.mark.parametrize(
    "target", ["../x", "a/../b", "", "/", "a//b", "./a", "a\0b", "a\nb", "x" * 1025, "..", "a/.."], ids=repr
)
def test_a_name_that_could_lead_elsewhere_is_refused(target: str) -> None:
    with pytest.raises(ModelUnavailable, match="TargetModel must be the path of a model archive"):
        relative_key(target)


def test_names_may_have_folders_and_a_leading_slash() -> None:
    assert relative_key("/a/b/model.tar.gz") == relative_key("a/b/model.tar.gz") == "a/b/model.tar.gz"
    assert relative_key("modèle 1.tar.gz") == "modèle 1.tar.gz"
