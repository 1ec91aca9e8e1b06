"""Threads for work that must not hold up the loop: a pool for the models, and one for the user's own code."""

from __future__ import annotations

import queue
import threading
import time

from clary_toolkit.serving import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Workers:
    """A fixed number of threads that run what they are given, in its order."""

    def __init__(self, count: int, name: str) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.run = self._tasks.put
        for number in range(count):
            threading.Thread(target=self._work, name="{}-{}".format(name, number + 1), daemon=True).start()

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                task()
            except Exception:  # noqa: BLE001 - the boundary of the thread, which has to live on
                log.exception("A task of the server failed")
            del task  # or a request's body would live until the next one


class UserWorkers:
    """Threads for the user's code, which may hang: one that takes too long is given up and replaced.

    Args:
        count: how many threads.
        seconds: how long a task may take.
        prepare: called first on each thread; its result is given to each task of that thread.
    """

    def __init__(self, count: int, seconds: float, prepare: Callable[[], Any]) -> None:
        self._tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self._seconds = seconds
        self._prepare = prepare
        self._running: dict[threading.Thread, _Task] = {}
        self._lock = threading.Lock()
        self._ready = threading.Semaphore(0)
        self._failure: BaseException | None = None
        for _ in range(count):
            self._start()
        for _ in range(count):
            self._ready.acquire()
        if self._failure is not None:
            raise self._failure
        threading.Thread(target=self._watch, name="handler-watch", daemon=True).start()

    def run(self, work: Callable[[Any], None], given_up: Callable[[], None]) -> None:
        """Run `work` on one of the threads; `given_up` is called instead where it takes too long."""
        self._tasks.put(_Task(work, given_up))

    def _start(self) -> None:
        threading.Thread(target=self._work, name="handler", daemon=True).start()

    def _work(self) -> None:
        try:
            prepared = self._prepare()
        except BaseException as error:  # noqa: BLE001 - told to whoever starts the threads
            self._failure = error
            self._ready.release()
            return
        self._ready.release()
        me = threading.current_thread()
        while True:
            task = self._tasks.get()
            task.started = time.monotonic()
            with self._lock:
                self._running[me] = task
            try:
                task.work(prepared)
            except Exception:  # noqa: BLE001 - the boundary of the thread, which has to live on
                log.exception("A task of the server failed")
            with self._lock:
                if self._running.pop(me, None) is None:
                    return  # given up: another thread has taken this one's place
            del task

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self._seconds / 4))
            now = time.monotonic()
            with self._lock:
                late = [(thread, task) for thread, task in self._running.items() if now - task.started > self._seconds]
                for thread, _ in late:
                    del self._running[thread]
            for _, task in late:
                log.error(
                    "A request has been in inference.py for more than {:g} s and is given up".format(self._seconds)
                )
                self._start()
                task.given_up()


class _Task:
    def __init__(self, work: Callable[[Any], None], given_up: Callable[[], None]) -> None:
        self.work = work
        self.given_up = given_up
        self.started = 0.0
