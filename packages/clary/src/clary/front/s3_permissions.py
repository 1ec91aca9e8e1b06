"""What a job's credentials may not do in S3: touch the places of another training job.

A place is another job's when a segment of its key is that job's name, as in `<output path>/<job name>/output/…`. The
job may still use it when its own request names it: fine-tuning from another job's artifact, or its checkpoints.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from clary.front.s3_errors import S3Error
from clary.storage.client import parse_s3_uri
from clary.wire.messages import Caller

OwnerOf = Callable[[set[str]], set[str] | Awaitable[set[str]]]
"""Of some segments of keys, those that are names of recorded training jobs."""

NamedPrefixes = Callable[[str], Iterable[str] | Awaitable[Iterable[str]]]
"""The s3:// addresses that the request of a training job names."""


@dataclass(frozen=True)
class Place:
    """A key, or the prefix of a listing, that a request touches by an action such as "s3:GetObject"."""

    action: str
    bucket: str
    key: str


async def check_places(caller: Caller, places: Iterable[Place], owner_of: OwnerOf, named: NamedPrefixes) -> None:
    """Let a job's request pass, or not.

    Raises:
        S3Error: AccessDenied, with the job that owns the place.
    """
    if caller.job_name is None:
        return
    touched = list(places)
    segments = {segment for place in touched for segment in place.key.split("/") if segment} - {caller.job_name}
    if not segments:
        return
    answer = owner_of(segments)
    others = (await answer if inspect.isawaitable(answer) else answer) - {caller.job_name}
    if not others:
        return
    addresses = named(caller.job_name)
    prefixes = [parse_s3_uri(uri) for uri in (await addresses if inspect.isawaitable(addresses) else addresses)]
    for place in touched:
        owner = _foreign(place, others, prefixes)
        if owner:
            raise S3Error(
                "AccessDenied",
                f'User: {caller.arn} is not authorized to perform: {place.action} on resource: "arn:aws:s3:::'
                f'{place.bucket}/{place.key}" because it belongs to the training job {owner}, and the request that '
                f"created the training job {caller.job_name} does not name it",
                403,
            )


def _foreign(place: Place, others: set[str], prefixes: list[tuple[str, str]]) -> str | None:
    """The other job that a place belongs to. A named prefix opens it only if it reaches that job's own name."""
    end = 0
    for segment in place.key.split("/"):
        end += len(segment)
        if segment in others and not any(
            bucket == place.bucket and len(prefix) >= end and place.key[: len(prefix)] == prefix[: len(place.key)]
            for bucket, prefix in prefixes
        ):
            return segment
        end += 1
    return None
