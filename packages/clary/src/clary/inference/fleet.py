"""What the router knows of one endpoint: its variants, their replicas, and what each replica has to do."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque

from clary.inference.connection import MAX_OUTSTANDING, Pool, Unreachable
from clary.inference.model_placement import Placement
from clary.state.routing import RoutedEndpoint, RoutedReplica, RoutedVariant

_PROMPT_SECONDS = 1.0  # in which the body of a request comes, where its client is not slow
_TRY_MORE_SECONDS = 1.0  # after which one more than a replica took last is tried


class Replica:
    """One server, and how many requests it may have at once.

    A server with a queue of its own says when that is full. As many as it took then it gets from then on, and, while it
    answers, every second one more: what it would refuse need not be carried to it.

    Clary's own server says beforehand how many it takes, and how many of these it can work on. The others wait here for
    their turn, in their order: a few connections that are busy all the time cost less than many.
    """

    __slots__ = (
        "__weakref__", "_active", "_limit", "_more_at", "_most", "_said", "_waiting", "_window",
        "log_stream", "outstanding", "pool", "shunned_until",
    )  # fmt: skip

    def __init__(self, routed: RoutedReplica) -> None:
        self.log_stream = routed.log_stream
        self.pool = Pool(routed.address)
        self.outstanding = 0
        self.shunned_until = 0.0
        self._most = self._limit = MAX_OUTSTANDING
        self._more_at = 0.0
        self._window = MAX_OUTSTANDING
        self._said = b""
        self._active = 0  # requests that have had their turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether it has as many requests as it takes."""
        return self.outstanding >= self._limit

    @property
    def room(self) -> int:
        """How many more it takes."""
        return self._limit - self.outstanding

    @property
    def _works_on_more(self) -> bool:
        return self._active < self._window and self._active < self._limit

    def note_full(self) -> None:
        """It has just refused one of its outstanding requests because of the others."""
        self._limit = max(1, min(self._limit, self._active - 1))
        self._more_at = time.perf_counter() + _TRY_MORE_SECONDS

    async def turn(self, seconds: float) -> bool:
        """Wait until it can work on one more request, and whether that came in time: then `leave` is due afterwards.

        Raises:
            Unreachable: it is not there any more.
        """
        self.outstanding += 1
        if self._works_on_more and not self._waiting:
            self._active += 1
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()  # its turn came as its time was over, or its client went away
            else:
                self.outstanding -= 1
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def leave(self) -> None:
        """A request that had its turn is over: the next one has its own."""
        self.outstanding -= 1
        self._active -= 1
        while self._waiting and self._works_on_more:
            turn = self._waiting.popleft()
            if not turn.done():
                self._active += 1
                turn.set_result(None)

    def close(self) -> None:
        """It is not routed to any more: requests that wait go elsewhere, those that had their turn are answered."""
        self.pool.close()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(Unreachable("it is being stopped"))

    def note_terms(self, said: bytes) -> None:
        """It has said how many requests it can work on and how many it takes, as 128/1024."""
        if said != self._said:
            self._said = said
            window, _, most = said.partition(b"/")
            self._window, self._most = int(window), min(int(most), MAX_OUTSTANDING)
            self._limit = min(self._limit, self._most)

    def note_answer(self) -> None:
        """It has taken a request and answered it."""
        if self._limit < self._most and self.outstanding >= self._limit:
            now = time.perf_counter()
            if now >= self._more_at:
                self._limit += 1
                self._more_at = now + _TRY_MORE_SECONDS


class Coming:
    """Counts a request for an endpoint while its body is read; one that takes its time counts no more after a while.

    Args:
        counts: of the endpoints, by name.
        name: the endpoint's.
    """

    __slots__ = ("_counts", "_late", "_name")

    def __init__(self, counts: Counter[str], name: str) -> None:
        self._counts, self._name = counts, name
        self._late: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._counts[self._name] += 1
        self._late = asyncio.get_running_loop().call_later(_PROMPT_SECONDS, self._leave)

    def __exit__(self, *_: object) -> None:
        if self._late is not None:
            self._late.cancel()
            self._leave()

    def _leave(self) -> None:
        self._late = None
        self._counts[self._name] -= 1
        if not self._counts[self._name]:
            del self._counts[self._name]


class Variant:
    """One production or shadow variant and its replicas."""

    __slots__ = ("placement", "replicas", "routed")

    def __init__(self, routed: RoutedVariant, replicas: list[Replica], placement: Placement) -> None:
        self.routed, self.replicas, self.placement = routed, replicas, placement

    def pick(self, tried: set[Replica], model: str | None = None) -> Replica | None:
        """The replica with the least outstanding requests, full ones last; of equals any. None when all were tried.

        Of a multi-model endpoint: one that has the model loaded, unless those are busy and another is not.
        """
        if model is not None and len(self.replicas) > 1:
            return self.placement.pick(model, [each for each in self.replicas if each not in tried])
        now = time.perf_counter()
        best: Replica | None = None
        best_load = (False, 0)
        count = len(self.replicas)
        first = random.randrange(count) if count > 1 else 0
        for index in range(count):
            replica = self.replicas[(first + index) % count]
            load = (replica.shunned_until > now or replica.is_full, replica.outstanding)
            if replica not in tried and (best is None or load < best_load):
                best, best_load = replica, load
        return best

    def has_room(self, tried: set[Replica]) -> bool:
        """Whether another replica takes a request."""
        return any(not replica.is_full for replica in self.replicas if replica not in tried)


class Fleet:
    """The production variants that one version of an endpoint has."""

    __slots__ = ("by_name", "variants")

    def __init__(self, variants: list[Variant]) -> None:
        self.variants = variants
        self.by_name = {variant.routed.name: variant for variant in variants}

    def pick(self) -> Variant:
        """A variant by weight, among those that have replicas if any has."""
        if len(self.variants) == 1:
            return self.variants[0]
        candidates = [variant for variant in self.variants if variant.replicas] or self.variants
        weights = [variant.routed.weight for variant in candidates]
        return random.choices(candidates, weights)[0] if sum(weights) > 0 else random.choice(candidates)


class Endpoint:
    """What one endpoint's requests go to: the fleet that serves, one that takes over by and by, and shadows."""

    __slots__ = ("incoming", "routed", "serving", "shadows")

    def __init__(
        self, routed: RoutedEndpoint, variants: list[Variant], shadows: list[Variant], incoming: list[Variant]
    ) -> None:
        self.routed, self.shadows = routed, shadows
        self.serving, self.incoming = Fleet(variants), Fleet(incoming)

    @property
    def variants(self) -> list[Variant]:
        return self.serving.variants

    def pick(self, name: str | None = None) -> Variant | None:
        """A variant for a request; None when it names one that is not there.

        While an update moves traffic in steps, a part of the requests goes to the fleet that takes over.
        """
        fleets = [self.serving]
        if self.incoming.variants and random.random() < self.routed.incoming_share:
            fleets = [self.incoming, self.serving]
        for fleet in fleets:
            variant = fleet.pick() if name is None else fleet.by_name.get(name)
            if variant is not None and (variant.replicas or fleet is self.serving):
                return variant
        return None

    def has_room(self, coming: int) -> bool:
        """Whether it takes one more request beside those that are coming; so too while it has no replica at all."""
        fleets = (self.serving, self.incoming) if self.incoming.variants else (self.serving,)
        replicas = [replica for fleet in fleets for variant in fleet.variants for replica in variant.replicas]
        return not replicas or sum(max(0, replica.room) for replica in replicas) > coming
