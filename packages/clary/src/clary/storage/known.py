"""The store as a process sees it that neither starts nor watches it: by the files of the process that does.

The store may not be there yet, and its port may change when it is restarted.
"""

from __future__ import annotations

import orjson

from clary.settings import Settings
from clary.storage import seaweed_config
from clary.storage.access import StoreAccess
from clary.storage.client import ObjectStore
from clary.storage.errors import StoreUnreachable
from clary.storage.http import Unreachable
from clary.storage.seaweed import ExternalStore
from clary.storage.seaweed_config import StoreFiles, StoreKeys


class KnownStore:
    """The settings' store. Use from one event loop.

    Args:
        patience: seconds for which `write` is repeated while the store is away.
    """

    def __init__(self, settings: Settings, *, patience: float) -> None:
        self.embedded = not settings.s3_endpoint
        self._files = StoreFiles(settings.home / "store")
        self._region = settings.region
        self._patience = patience
        self._read_at = -1
        self._access = None if self.embedded else ExternalStore(settings).access
        self._objects: ObjectStore | None = None

    def access(self) -> StoreAccess:
        """How to reach the store now.

        Raises:
            Unreachable: it was never started yet.
        """
        if not self.embedded and self._access is not None:
            return self._access
        try:
            changed = self._files.ports.stat().st_mtime_ns
            if self._access is None or changed != self._read_at:
                keys = StoreKeys(**orjson.loads(self._files.keys.read_bytes()))
                self._access = seaweed_config.access(self._files, keys, self._region)
                self._read_at = changed
        except FileNotFoundError:
            raise Unreachable("the object store is being started") from None
        return self._access

    async def write(self, bucket: str, key: str, content: bytes) -> None:
        """Write a small object.

        Raises:
            StoreError: the store refuses it, or is away.
        """
        try:
            access = self.access()
        except Unreachable as error:
            raise StoreUnreachable(str(error)) from None
        if self._objects is None or self._objects.access != access:
            await self.close()
            self._objects = ObjectStore(access, patience=self._patience)
        await self._objects.write(bucket, key, content)

    async def close(self) -> None:
        """Close the kept connections."""
        if self._objects is not None:
            await self._objects.close()
            self._objects = None
