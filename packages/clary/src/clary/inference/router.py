"""Which replica answers a request: variant by weight, replica by least outstanding requests, and again where one fails.

A request whose connection breaks before any of the answer has come is sent once more. A request that no replica can
take, because the only one is being started again, waits for it; one that comes when every replica has as many as it
takes is refused, before its body is read. Everything here runs in one event loop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from clary.inference import connection, errors
from clary.inference.connection import Broken, Exchange, StreamedAnswer, TooLarge, TooSlow, Unreachable
from clary.inference.fleet import Coming, Endpoint, Replica, Variant
from clary.inference.measurements import Measurements
from clary.inference.model_placement import Placement
from clary.state.routing import RoutedReplica, RoutedVariant, RoutingTable
from clary.wire.errors import AwsError

MAX_RESPONSE = 6_291_456
HOLD_SECONDS = 30.0  # a request waits so long for a replica that is being started again
MAX_HELD = 512
_HOLD_STEP_SECONDS = 0.1
_SHUN_SECONDS = 0.2  # a replica that refused a connection is asked only if there is no other

Result = TypeVar("Result", Exchange, StreamedAnswer)


@dataclass(frozen=True)
class Invocation:
    """One request as it goes to a container.

    `head` is the HTTP request up to its empty line. `received` is the time, as `time.perf_counter` has it, at which the
    request was there.
    """

    endpoint: str
    target_variant: str | None
    head: bytes
    body: bytes
    received: float
    account_id: str
    target_model: str | None = None
    container_hostname: str | None = None


@dataclass(frozen=True)
class Answer:
    """A container's good answer, the variant that gave it, and the endpoint's DataCaptureConfig where it has one."""

    variant: str
    exchange: Exchange
    capture: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Stream:
    """A container's good answer that is still coming."""

    variant: str
    answer: StreamedAnswer


class Router:
    """Sends requests to replicas, by a table that `apply` exchanges.

    Args:
        measurements: told of every invocation.
    """

    def __init__(self, measurements: Measurements) -> None:
        self.refresh: Callable[[], Awaitable[object]] | None = None
        """Brings the table up to date, where something feeds it."""

        self._measurements = measurements
        self._endpoints: dict[str, Endpoint] = {}
        self._replicas: dict[tuple[str, str], Replica] = {}
        self._placements: dict[tuple[str, str], Placement] = {}
        self._held = 0
        self._coming: Counter[str] = Counter()  # requests whose bodies are being read, by endpoint
        self._shadowing: set[asyncio.Task[None]] = set()

    def apply(self, table: RoutingTable) -> None:
        """Route by this table from now on. Requests that are being answered go on where they are."""
        before, self._replicas = self._replicas, {}

        def replica(routed: RoutedReplica) -> Replica:
            key = (routed.host_id, routed.address)
            self._replicas[key] = before.get(key) or Replica(routed)
            return self._replicas[key]

        placements, self._placements = self._placements, {}

        def variants(endpoint: str, routed: tuple[RoutedVariant, ...]) -> list[Variant]:
            made: list[Variant] = []
            for variant in routed:
                key = (endpoint, variant.name)
                self._placements[key] = placements.get(key) or Placement()
                replicas = [replica(each) for each in variant.replicas]
                made.append(Variant(variant, replicas, self._placements[key]))
            return made

        self._endpoints = {
            name: Endpoint(
                endpoint,
                variants(name, endpoint.variants),
                variants(name, endpoint.shadow_variants),
                variants(name, endpoint.incoming),
            )
            for name, endpoint in table.endpoints.items()
        }
        for key, gone in before.items():
            if key not in self._replicas:
                gone.close()

    def close(self) -> None:
        """Route nothing any more."""
        self.apply(RoutingTable(0))
        for task in self._shadowing:
            task.cancel()

    def check_room(self, name: str) -> None:
        """Refuse a request for an endpoint whose replicas are all full, counting those that are coming.

        Raises:
            ServiceUnavailable
        """
        endpoint = self._endpoints.get(name)
        if endpoint is None or endpoint.has_room(self._coming[name]):
            return
        routed = endpoint.serving.pick().routed
        self._measurements.count(name, routed.name, 503, 0.0, 0.0, routed.instance_count)
        raise _busy(name)

    def coming(self, name: str) -> Coming:
        """A request for an endpoint, while its body is read."""
        return Coming(self._coming, name)

    async def invoke(self, call: Invocation) -> Answer:
        """A container's answer, whole.

        Raises:
            AwsError: of `errors`.
        """

        async def ask(replica: Replica, seconds: float, fresh: bool) -> Exchange:
            return await connection.exchange(
                replica.pool, call.head, call.body, seconds=seconds, limit=MAX_RESPONSE, fresh=fresh
            )

        endpoint, variant = await self._find(call)
        if endpoint.shadows:
            self._copy_to_shadows(endpoint, call)
        sent = _Sent()
        status = 500
        try:
            answer = await self._send(call, endpoint, variant, sent, ask)
            status = answer.status
            if not 200 <= status < 300:
                raise _refused(endpoint, variant, sent, answer.status, answer.header, answer.body)
        except AwsError as error:
            status = status if status != 500 else _status_of(error)
            raise
        finally:
            self._measure(endpoint, variant, status, sent, call)
        return Answer(variant.routed.name, answer, endpoint.routed.data_capture)

    async def invoke_streaming(self, call: Invocation) -> Stream:
        """A container's answer, from when its head is there.

        Raises:
            AwsError: of `errors`.
        """

        async def ask(replica: Replica, seconds: float, fresh: bool) -> StreamedAnswer:
            return await connection.streamed_exchange(replica.pool, call.head, call.body, seconds=seconds, fresh=fresh)

        endpoint, variant = await self._find(call)
        sent = _Sent()
        status = 500
        try:
            answer = await self._send(call, endpoint, variant, sent, ask)
            status = answer.status
            if not 200 <= status < 300:
                text = await answer.rest(MAX_RESPONSE)
                raise _refused(endpoint, variant, sent, status, answer.header, text)
        except AwsError as error:
            status = status if status != 500 else _status_of(error)
            raise
        except (Broken, TooSlow) as error:
            raise errors.model_error(endpoint.routed, sent.log_stream, 0, errors.CLOSED) from error
        finally:
            self._measure(endpoint, variant, status, sent, call)
        return Stream(variant.routed.name, answer)

    async def _find(self, call: Invocation) -> tuple[Endpoint, Variant]:
        endpoint = self._endpoints.get(call.endpoint)
        if (endpoint is None or not endpoint.variants) and self.refresh is not None:
            await self.refresh()  # who has just read that it is in service may be here before the table is
            endpoint = self._endpoints.get(call.endpoint)
        if endpoint is None or not endpoint.variants:
            raise errors.no_endpoint(call.endpoint, call.account_id)
        variant = endpoint.pick(call.target_variant)
        if variant is None:
            names = ", ".join(endpoint.serving.by_name)
            raise errors.invalid(
                f"The endpoint {call.endpoint} has no production variant {call.target_variant}. It has: {names}."
            )
        _check_target(call, variant.routed)
        return endpoint, variant

    async def _send(
        self,
        call: Invocation,
        endpoint: Endpoint,
        variant: Variant,
        sent: _Sent,
        ask: Callable[[Replica, float, bool], Awaitable[Result]],
    ) -> Result:
        """What a replica answers, whatever it is; another is tried where that can do no harm."""
        began = time.perf_counter()
        tried: set[Replica] = set()
        again = False
        while True:
            replica = variant.pick(tried, call.target_model)
            if replica is None:
                endpoint, variant = await self._hold(call, variant, began)
                tried.clear()
                continue
            if replica.is_full:
                raise _busy(call.endpoint)
            sent.at, sent.log_stream = time.perf_counter(), replica.log_stream
            seconds = variant.routed.answer_seconds
            has_turn = False
            try:
                has_turn = await replica.turn(seconds)
                if not has_turn:
                    raise _busy(call.endpoint)
                answer = await ask(replica, seconds - (time.perf_counter() - sent.at), again)
                if terms := answer.header(b"x-clary-concurrency"):
                    replica.note_terms(terms)
                refused = answer.header(b"x-clary-error") if answer.status == 503 else None
                if refused == b"ServiceUnavailable":
                    replica.note_full()
                    tried.add(replica)
                    if variant.has_room(tried):
                        answer.close()
                        continue
                if refused != b"Loading":
                    replica.note_answer()
                    if call.target_model is not None:
                        sent.waited = self._note_model(call.target_model, endpoint, variant, replica, answer)
                    return answer
                answer.close()
                replica.shunned_until = time.perf_counter() + _SHUN_SECONDS
                tried.add(replica)
            except Unreachable:
                replica.shunned_until = time.perf_counter() + _SHUN_SECONDS
                tried.add(replica)
            except Broken as error:
                if again or error.answered:
                    raise errors.model_error(endpoint.routed, sent.log_stream, 0, errors.CLOSED) from error
                again = True
                if len(variant.replicas) > 1:
                    tried.add(replica)
                else:  # a server that dies goes on listening for a moment after its connections are gone
                    await asyncio.sleep(_HOLD_STEP_SECONDS)
            except TooSlow as error:
                raise errors.model_error(endpoint.routed, sent.log_stream, 0, errors.TIMED_OUT) from error
            except TooLarge as error:
                raise errors.model_error(endpoint.routed, sent.log_stream, 500, errors.RESPONSE_TOO_LARGE) from error
            finally:
                if has_turn:
                    replica.leave()
                sent.seconds = time.perf_counter() - sent.at

    async def _hold(self, call: Invocation, variant: Variant, began: float) -> tuple[Endpoint, Variant]:
        """Wait a moment for a replica that can be reached; the table may have changed by then."""
        if time.perf_counter() - began > HOLD_SECONDS or self._held >= MAX_HELD:
            raise errors.ServiceUnavailable(
                f"No instance of variant {variant.routed.name} of the endpoint {call.endpoint} can be reached."
            )
        self._held += 1
        try:
            await asyncio.sleep(_HOLD_STEP_SECONDS)
        finally:
            self._held -= 1
        endpoint = self._endpoints.get(call.endpoint)
        if endpoint is None or not endpoint.variants:
            raise errors.no_endpoint(call.endpoint, call.account_id)
        return endpoint, endpoint.pick(variant.routed.name) or endpoint.serving.pick()

    def _measure(self, endpoint: Endpoint, variant: Variant, status: int, sent: _Sent, call: Invocation) -> None:
        total = time.perf_counter() - call.received
        by_model = max(sent.seconds - sent.waited, 0.0)  # loading a model is not its latency
        self._measurements.count(
            endpoint.routed.name, variant.routed.name, status, by_model, total, variant.routed.instance_count
        )

    def _note_model(
        self, model: str, endpoint: Endpoint, variant: Variant, replica: Replica, answer: Exchange | StreamedAnswer
    ) -> float:
        """Learn from an answer who has the model; the seconds for which the request waited for it to be loaded."""
        hit, waited = answer.header(b"x-clary-model-cache-hit"), answer.header(b"x-clary-model-wait-us")
        if hit is None or waited is None:
            variant.placement.forget(model, replica)
            return 0.0
        variant.placement.note(model, replica)
        self._measurements.count_model(endpoint.routed.name, variant.routed.name, hit=hit == b"1", wait=int(waited))
        return int(waited) / 1e6

    def _copy_to_shadows(self, endpoint: Endpoint, call: Invocation) -> None:
        """Send a copy to shadow variants, as often as their weights say, and drop what they answer."""
        whole = sum(variant.routed.weight for variant in endpoint.variants) or 1.0
        for shadow in endpoint.shadows:
            if random.random() * whole < shadow.routed.weight:
                task = asyncio.create_task(self._shadow(shadow, call))
                self._shadowing.add(task)
                task.add_done_callback(self._shadowing.discard)

    async def _shadow(self, variant: Variant, call: Invocation) -> None:
        replica = variant.pick(set(), call.target_model)
        if replica is None or replica.is_full:
            return
        began, status = time.perf_counter(), 500
        has_turn = False
        try:
            has_turn = await replica.turn(variant.routed.answer_seconds)
            if not has_turn:
                return
            answer = await connection.exchange(
                replica.pool, call.head, call.body, seconds=variant.routed.answer_seconds, limit=MAX_RESPONSE
            )
            status = answer.status
        except (Unreachable, Broken, TooSlow, TooLarge):
            return  # nobody waits for it; the measurement tells
        finally:
            if has_turn:
                replica.leave()
            seconds = time.perf_counter() - began
            routed = variant.routed
            self._measurements.count(call.endpoint, routed.name, status, seconds, seconds, routed.instance_count)


class _Sent:
    """To whom a request went last, when, and how long that took."""

    __slots__ = ("at", "log_stream", "seconds", "waited")

    def __init__(self) -> None:
        self.at = self.seconds = self.waited = 0.0
        self.log_stream = ""


def _busy(endpoint: str) -> errors.ServiceUnavailable:
    return errors.ServiceUnavailable(
        f"All instances of the endpoint {endpoint} are busy: as many requests wait as they take. Try again later."
    )


def _check_target(call: Invocation, variant: RoutedVariant) -> None:
    if variant.multi_model and not call.target_model:
        raise errors.invalid(
            f"Endpoint {call.endpoint} is a multi-model endpoint and the request is missing a target model header. "
            "TargetModel must name one of its models."
        )
    if call.target_model is not None and not variant.multi_model:
        raise errors.invalid(
            f"Endpoint {call.endpoint} is not a multi-model endpoint and does not support target model header."
        )
    hostnames = variant.container_hostnames
    if bool(hostnames) != bool(call.container_hostname):
        raise errors.invalid(
            f"The containers of the endpoint {call.endpoint} are invoked directly: TargetContainerHostname must be one "
            f"of {', '.join(hostnames)}."
            if hostnames
            else f"TargetContainerHostname can only be given where containers are invoked directly; those of the "
            f"endpoint {call.endpoint} are not."
        )
    if call.container_hostname and call.container_hostname not in hostnames:
        raise errors.invalid(
            f"The endpoint {call.endpoint} has no container {call.container_hostname}. It has: {', '.join(hostnames)}."
        )


def _refused(
    endpoint: Endpoint,
    variant: Variant,
    sent: _Sent,
    status: int,
    header: Callable[[bytes], bytes | None],
    body: bytes,
) -> AwsError:
    """The error that a container's error becomes. Clary's own server says by a header when it is not the model's."""
    text = body.decode("utf-8", "replace")
    own = header(b"x-clary-error")
    if own is None:
        several = header(b"x-clary-container")
        container = several.decode("latin-1") if several and variant.routed.in_series else errors.PRIMARY
        return errors.model_error(endpoint.routed, sent.log_stream, status, text, container)
    message = _message(body) or text
    match own:
        case b"ServiceUnavailable":
            return errors.ServiceUnavailable(message)
        case b"ModelNotReadyException":
            return errors.ModelNotReady(message)
        case b"ValidationError":
            return errors.invalid(message)
        case b"ContainerTimedOut":
            return errors.model_error(endpoint.routed, sent.log_stream, 0, errors.timed_out(message), message)
        case b"ContainerClosed":
            return errors.model_error(endpoint.routed, sent.log_stream, 0, errors.CLOSED, message)
        case _:
            return errors.model_error(endpoint.routed, sent.log_stream, status, message)


def _message(body: bytes) -> str | None:
    """The text of {"error": "…"}, in which the model server of Clary's images tells errors."""
    try:
        content = orjson.loads(body)
    except ValueError:
        return None
    return content.get("error") if isinstance(content, dict) else None


def _status_of(error: AwsError) -> int:
    return 500 if error.status == 424 else error.status
