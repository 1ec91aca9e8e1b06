"""What SDK v3's drivers are to start: they come with the job in a channel, and the request says nothing of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clary.host.spec import Channel
    from clary.storage.access import StoreAccess

CHANNEL = "sm_drivers"

_SCRIPT = "sm_train.sh"  # what the container runs; it calls one driver
_MPI = b"/mpi_driver.py"
_PATIENCE_SECONDS = 60.0


def start_mpi(channels: Sequence[Channel], access: StoreAccess) -> bool:
    """Whether the job's channels hold drivers that start its script by MPI.

    False, too, where they cannot be read: the download of the channel, which goes on beside this, says why.
    """
    uri = next((channel.s3_uri for channel in channels if channel.name == CHANNEL), None)
    return uri is not None and asyncio.run(_script_names_mpi(uri, access))


async def _script_names_mpi(uri: str, access: StoreAccess) -> bool:
    from clary.storage.client import ObjectStore, parse_s3_uri
    from clary.storage.errors import StoreError

    bucket, prefix = parse_s3_uri(uri)
    store = ObjectStore(access, patience=_PATIENCE_SECONDS)
    try:
        return _MPI in await store.read(bucket, f"{prefix.rstrip('/')}/{_SCRIPT}")
    except StoreError:
        return False
    finally:
        await store.close()
