"""Which replicas of a multi-model variant have which model loaded, as their answers have told.

A request goes to a replica that has its model. While those have more to do than another by some margin, it goes to the
other, which then loads the model too: a model that is much asked for spreads, one that is not stays where it is.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

MAX_MODELS = 20_000  # remembered; a model that is forgotten is only looked for anew
_SPREAD_AT = 4  # more outstanding requests than the least busy replica


class Loaded(Protocol):
    """A replica, as far as its load is concerned."""

    @property
    def outstanding(self) -> int: ...
    @property
    def shunned_until(self) -> float: ...


Replica = TypeVar("Replica", bound=Loaded)


class Placement:
    """One variant's. Used in one event loop."""

    def __init__(self) -> None:
        self._holders: OrderedDict[str, WeakSet[Any]] = OrderedDict()

    def note(self, model: str, replica: Loaded) -> None:
        """A replica has answered for a model."""
        holders = self._holders.get(model)
        if holders is None:
            holders = self._holders[model] = WeakSet()
            if len(self._holders) > MAX_MODELS:
                self._holders.popitem(last=False)
        self._holders.move_to_end(model)
        holders.add(replica)

    def forget(self, model: str, replica: Loaded) -> None:
        """A replica could not answer for a model."""
        holders = self._holders.get(model)
        if holders is not None:
            holders.discard(replica)
            if not holders:
                del self._holders[model]

    def pick(self, model: str, replicas: Sequence[Replica]) -> Replica | None:
        """The replica for a request."""
        now = time.perf_counter()

        def load(replica: Replica) -> tuple[bool, int, float]:
            return replica.shunned_until > now, replica.outstanding, random.random()

        if not replicas:
            return None
        idlest = min(replicas, key=load)
        known = self._holders.get(model, ())
        holders = [replica for replica in replicas if replica in known]
        if not holders:
            return idlest
        best = min(holders, key=load)
        busy = best.shunned_until > now or best.outstanding >= idlest.outstanding + _SPREAD_AT
        return idlest if busy else best
