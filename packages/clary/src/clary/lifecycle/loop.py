"""The loop that keeps every controller going: woken by what changes in this process, and by the clock for the rest."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from clary.cluster.base import Cluster, Clusters
from clary.front.credentials import CredentialStore
from clary.lifecycle.endpoints import EndpointController
from clary.lifecycle.training import TrainingController
from clary.settings import Settings
from clary.state import changes
from clary.state.database import Database
from clary.storage.access import StoreAccess

POLL_SECONDS = 0.5
_BACK_OFF_SECONDS = 2.0  # before a job whose step failed unexpectedly is tried again
_PREPARE_SECONDS = 1.0  # the server's own start comes first
_THREADS = 8

_Key = tuple[str, int]  # a controller's kind and the resource's id

_log = logging.getLogger(__name__)


class Controller(Protocol):
    """Drives the resources of one kind. Its methods block."""

    kind: str
    """What it drives, for the log: "training job"."""

    def due(self) -> list[int]:
        """The resources, by id, for which there is a step to take now."""
        ...

    def step(self, resource_id: int) -> None:
        """Take every step that can be taken for one."""
        ...


async def run(
    database: Database,
    clusters: Clusters,
    store: StoreAccess,
    settings: Settings,
    credentials: CredentialStore,
    stop: asyncio.Event,
) -> None:
    """Drive all resources until `stop` is set; then finish the steps that are being taken. Hosts go on without us.

    Args:
        database: the record.
        clusters: where hosts run.
        store: what hosts beside the server are told of the object store.
        settings: the server's.
        credentials: issues the keys of jobs.
        stop: set to end the loop.
    """
    of_jobs = None if clusters.elsewhere else store
    training = TrainingController(database, clusters.jobs, of_jobs, settings, credentials)
    endpoints = EndpointController(database, clusters.endpoints, store, settings, credentials)
    driver = _Driver((training, endpoints), clusters.jobs)
    unlisten = changes.listen(database, lambda _kind, _name: driver.wake())
    driving = asyncio.create_task(asyncio.to_thread(driver.drive))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((driving, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        unlisten()
        stopping.cancel()
        driver.stop()
        await driving


class _Driver:
    """Looks for resources that are due and takes their steps: one at a time for each, several resources at once.

    It runs on threads of its own, so that what wakes it need not wait for the server's event loop.
    """

    def __init__(self, controllers: Sequence[Controller], cluster: Cluster) -> None:
        self._controllers = controllers
        self._cluster = cluster
        self._awake = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._running: set[_Key] = set()
        self._failed_until: dict[_Key, float] = {}

    def wake(self) -> None:
        """Look at once: something has changed."""
        self._awake.set()

    def stop(self) -> None:
        """End `drive` when the steps that are being taken are done."""
        self._stopped.set()
        self._awake.set()

    def drive(self) -> None:
        """Take steps until `stop` is called."""
        prepare = threading.Timer(_PREPARE_SECONDS, self._prepare)
        prepare.start()
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="lifecycle") as pool:
            while not self._stopped.is_set():
                self._awake.clear()
                for controller in self._controllers:
                    for key in self._due(controller):
                        with self._lock:
                            self._running.add(key)
                        pool.submit(self._step, controller, key)
                self._awake.wait(POLL_SECONDS)
        prepare.cancel()
        prepare.join()
        self._cluster.close()

    def _due(self, controller: Controller) -> list[_Key]:
        try:
            due = [(controller.kind, resource_id) for resource_id in controller.due()]
        except Exception:  # noqa: BLE001
            # The boundary of the loop: a database that is away for a while must not end the controllers.
            _log.exception("could not look for work; trying again")
            return []
        at = time.monotonic()
        with self._lock:
            return [key for key in due if key not in self._running and self._failed_until.get(key, 0) < at]

    def _step(self, controller: Controller, key: _Key) -> None:
        try:
            controller.step(key[1])
            self._failed_until.pop(key, None)
        except Exception:  # noqa: BLE001 (recorded; tried again)
            _log.exception("a step of %s %s failed; trying again", *key)
            self._failed_until[key] = time.monotonic() + _BACK_OFF_SECONDS
        # What happened meanwhile may need another step, of this resource or of another one that waits for room.
        with self._lock:
            self._running.discard(key)
        self._awake.set()

    def _prepare(self) -> None:
        try:
            self._cluster.prepare()
        except OSError:
            _log.exception("the cluster could not get ready for the next start: it will take a moment longer")
