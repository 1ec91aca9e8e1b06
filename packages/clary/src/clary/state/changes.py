"""Who in this process wants to know at once that a row has changed: it spares the controllers' polling delay.

Only a hint: a process that crashes, or another server on the same database, is caught up with by polling.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary

from clary.state.database import Database

Listener = Callable[[str, str], object]

_lock = threading.Lock()
_listeners: WeakKeyDictionary[Database, list[Listener]] = WeakKeyDictionary()


def announce(database: Database, kind: str, name: str) -> None:
    """Say that the resource of this kind and name has changed; call it after the transaction committed.

    Args:
        database: where the row is.
        kind: "training-job".
        name: the resource's name.
    """
    with _lock:
        listeners = tuple(_listeners.get(database, ()))
    for listener in listeners:
        listener(kind, name)


def listen(database: Database, listener: Listener) -> Callable[[], None]:
    """Call `listener(kind, name)` at each announcement, on the announcing thread; it must be quick and not raise.

    Returns:
        A function that ends it.
    """
    with _lock:
        _listeners.setdefault(database, []).append(listener)

    def stop() -> None:
        with _lock:
            _listeners.get(database, []).remove(listener)

    return stop
