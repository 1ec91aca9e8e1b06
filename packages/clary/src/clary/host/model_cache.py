"""Which models of a multi-model endpoint one container has loaded: loaded when first asked for, unloaded by memory.

The container says by status 507 that it has no memory for one more; then the models that nobody waits for are unloaded,
the one that was not used for longest first, and their copies on disk stay. Source: section "Custom Containers Contract
for Multi-Model Endpoints" of AWS's guide.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from clary.host.model_disk import ModelDisk, ModelUnavailable, opaque_name, relative_key

_LOADS = 4  # at once
_FREED_SECONDS = 30.0  # a load waits so long for a model that is in use to be free


@dataclass(frozen=True)
class Reply:
    """A container's whole answer."""

    status: int
    body: bytes
    content_type: str = "application/json"


class CallContainer(Protocol):
    """Sends a request to the container and waits for its answer."""

    async def __call__(self, method: str, path: str, body: bytes, seconds: float) -> Reply: ...


class LoadFailed(Exception):
    """The container could not load a model; its answer says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"status {reply.status}")
        self.reply = reply


@dataclass(frozen=True)
class Use:
    """A model that is loaded for as long as it is used."""

    target: str
    name: str
    hit: bool  # it was loaded already
    waited_seconds: float  # until it was


@dataclass
class _Model:
    target: str
    name: str
    loaded: bool = False
    users: int = 0
    loading: asyncio.Task[None] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class ModelCache:
    """The models of one container. Used in one event loop.

    Arguments:
        disk: where their files are.
        call: asks the container.
        path_inside: the folder of the models as the container sees it.
        measure: is told ModelDownloadingTime, ModelLoadingTime and ModelUnloadingTime in microseconds, and
            LoadedModelCount.
        keep: whether models stay loaded between requests ("ModelCacheSetting").
        wait_seconds: how long a request waits for its model, before it is told to come again.
        load_seconds: how long loading may take.
    """

    def __init__(
        self,
        disk: ModelDisk,
        call: CallContainer,
        path_inside: str,
        measure: Callable[[str, float], None],
        *,
        keep: bool = True,
        wait_seconds: float = 55.0,
        load_seconds: float = 360.0,
    ) -> None:
        self._disk, self._call, self._path_inside, self._measure = disk, call, path_inside, measure
        self._keep, self._wait_seconds, self._load_seconds = keep, wait_seconds, load_seconds
        self._models: OrderedDict[str, _Model] = OrderedDict()  # the one that was not used for longest first
        self._slots = asyncio.Semaphore(_LOADS)
        self._freed = asyncio.Event()
        self._epoch = 0
        self._unloading: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def use(self, target: str) -> AsyncGenerator[Use]:
        """Have a model loaded within the block.

        Raises:
            ModelUnavailable: it cannot be had, or not yet.
            LoadFailed: the container refuses it.
        """
        target = relative_key(target)
        model = self._models.setdefault(target, _Model(target, opaque_name(target)))
        self._models.move_to_end(target)
        hit = model.loaded
        began = time.monotonic()
        model.users += 1
        try:
            if not hit:
                await self._wait_for(model)
            yield Use(target, model.name, hit, time.monotonic() - began)
        finally:
            model.users -= 1
            self._let_go(model)

    def forget_loaded(self) -> None:
        """The container was started afresh: it has no model."""
        self._epoch += 1
        for model in self._models.values():
            model.loaded = False
        self._tell_count()

    async def lost(self, use: Use) -> bool:
        """Whether the container no longer has a model that was believed to be loaded; it is loaded again next time."""
        reply = await self._call("GET", f"/models/{use.name}", b"", self._load_seconds)
        if reply.status != 404:
            return False
        self._models[use.target].loaded = False
        self._tell_count()
        return True

    async def make_room(self, use: Use) -> bool:
        """Unload a model other than this one; whether there was one to unload."""
        return await self._unload_one(self._models[use.target])

    async def _wait_for(self, model: _Model) -> None:
        """Wait for a load, which all who ask meanwhile share and which goes on when they stop waiting."""
        if model.loading is None:
            model.loading = asyncio.create_task(self._load(model))
            model.loading.add_done_callback(lambda task: _look_at(task, model))
        waiting = model.loading
        done, _ = await asyncio.wait({waiting}, timeout=self._wait_seconds)
        if not done:
            raise ModelUnavailable(
                f"The model {model.target} is still being loaded after {self._wait_seconds:g} seconds. Loading goes "
                "on; send the request again.",
                "ModelNotReadyException",
            )
        waiting.result()

    async def _load(self, model: _Model) -> None:
        try:
            async with asyncio.timeout(self._load_seconds), self._slots, model.lock:
                epoch = self._epoch
                began = time.monotonic()
                if await self._disk.provide(model.target, model.name, self._droppable):
                    self._measure("ModelDownloadingTime", (time.monotonic() - began) * 1e6)
                began = time.monotonic()
                await self._have_loaded(model)
                self._measure("ModelLoadingTime", (time.monotonic() - began) * 1e6)
        except TimeoutError:
            text = f"The model {model.target} was not loaded within {self._load_seconds:g} seconds."
            raise ModelUnavailable(text, "ModelNotReadyException") from None
        if epoch != self._epoch:
            raise ModelUnavailable("The container was started again while it loaded the model.", "Loading")
        model.loaded = True
        self._tell_count()

    async def _have_loaded(self, model: _Model) -> None:
        order = json.dumps({"model_name": model.name, "url": f"{self._path_inside}/{model.name}/model"}).encode()
        deadline = time.monotonic() + _FREED_SECONDS
        while True:
            reply = await self._call("POST", "/models", order, self._load_seconds)
            if 200 <= reply.status < 300 or reply.status == 409:
                return
            if reply.status != 507:
                raise LoadFailed(reply)
            if await self._unload_one(model):
                continue
            if not any(other.loaded for other in self._models.values()) or time.monotonic() > deadline:
                raise LoadFailed(reply)
            self._freed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._freed.wait(), 1.0)

    async def _unload_one(self, but: _Model) -> bool:
        for model in self._models.values():
            if model.loaded and not model.users and model is not but:
                await self._unload(model)
                return True
        return False

    async def _unload(self, model: _Model) -> None:
        model.loaded = False
        async with model.lock:
            began = time.monotonic()
            await self._call("DELETE", f"/models/{model.name}", b"", self._load_seconds)
            self._measure("ModelUnloadingTime", (time.monotonic() - began) * 1e6)
            self._tell_count()

    def _let_go(self, model: _Model) -> None:
        self._freed.set()
        if model.users or model.loading is not None:
            return
        if not self._keep and model.loaded:
            model.loaded = False  # before anything waits: from now on a request loads it anew
            task = asyncio.create_task(self._unload(model))
            self._unloading.add(task)
            task.add_done_callback(self._unloaded)
        elif not model.loaded and not self._disk.has(model.name):
            self._models.pop(model.target, None)  # one of thousands of names that name nothing

    def _unloaded(self, task: asyncio.Task[None]) -> None:
        self._unloading.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            print(f"a model could not be unloaded: {error!r}", flush=True)

    def _droppable(self) -> Iterable[str]:
        """Models whose copy on disk is not needed: neither loaded nor asked for."""
        return [
            model.name
            for model in self._models.values()
            if not model.loaded and not model.users and model.loading is None and self._disk.has(model.name)
        ]

    def _tell_count(self) -> None:
        self._measure("LoadedModelCount", float(sum(model.loaded for model in self._models.values())))


def _look_at(task: asyncio.Task[None], model: _Model) -> None:
    model.loading = None
    if not task.cancelled():
        task.exception()  # whoever waits is told; nobody need be waiting
