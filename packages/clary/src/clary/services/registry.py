"""The table of API operations that Clary implements."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from clary.settings import Settings
from clary.state.database import Database
from clary.wire.messages import Caller

if TYPE_CHECKING:  # the client is heavy, and no operation needs its type at run time
    from clary.storage.client import ObjectStore


class IssuedCredentials(Protocol):
    """Temporary keys."""

    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def session_token(self) -> str: ...
    @property
    def expiration(self) -> dt.datetime: ...


class CredentialIssuer(Protocol):
    """What makes temporary keys: `front.credentials.CredentialStore`."""

    def issue(self, arn: str, duration: dt.timedelta, job_name: str | None = None) -> IssuedCredentials: ...


@dataclass(frozen=True)
class Context:
    """What an operation may use."""

    settings: Settings
    database: Database
    store: ObjectStore
    caller: Caller
    request_id: str
    credentials: CredentialIssuer | None = None  # for STS alone


Answer = Mapping[str, Any]
Operation = Callable[[Context, dict[str, Any]], Answer] | Callable[[Context, dict[str, Any]], Awaitable[Answer]]

_OPERATIONS: dict[tuple[str, str], Operation] = {}
_IGNORED: dict[tuple[str, str], tuple[str, ...]] = {}


def operation(service: str, *, accepted_without_effect: tuple[str, ...] = ()) -> Callable[[Operation], Operation]:
    """Register a function as the operation of its own name: `create_training_job` serves CreateTrainingJob.

    Args:
        service: botocore's name of the service, for instance "sagemaker".
        accepted_without_effect: request members, dotted, that are stored and echoed but change nothing;
            docs/reference/compatibility.md is generated from them.
    """

    def register(function: Operation) -> Operation:
        name = "".join(part.capitalize() for part in function.__name__.strip("_").split("_"))
        _OPERATIONS[service, name] = function
        _IGNORED[service, name] = accepted_without_effect
        return function

    return register


def in_thread(function: Callable[[Context, dict[str, Any]], Answer]) -> Callable[..., Awaitable[Answer]]:
    """Let an operation that may take long, or that waits for its turn to write, run beside the event loop.

    Stands below `@operation`. Quick reads do without: a thread costs them more than they take.
    """

    @functools.wraps(function)
    async def offloaded(context: Context, params: dict[str, Any]) -> Answer:
        return await asyncio.to_thread(function, context, params)

    return offloaded


def operations() -> Mapping[tuple[str, str], Operation]:
    """Every implemented operation by (service, operation name)."""
    return _OPERATIONS


def accepted_without_effect() -> Mapping[tuple[str, str], tuple[str, ...]]:
    """Request members without effect, by (service, operation name)."""
    return _IGNORED
