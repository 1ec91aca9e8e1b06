"""The transfers of a host to and from the object store."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, TypeVar

from clary.host.transfers import TransferError, Transfers
from clary.storage.client import ObjectStore
from clary.storage.errors import BucketMissing, ObjectMissing, StoreError, StoreRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clary.host.layout import HostFolder
    from clary.host.spec import HostSpec

Result = TypeVar("Result")


class StoreTransfers(Transfers):
    """Carries a host's data from and to the store that its order names."""

    def download(self, spec: HostSpec, folder: HostFolder) -> None:
        """Fill the channels' folders and the checkpoints'."""
        if spec.channels:
            from clary.host.channels import download_channels

            _run(spec, lambda store: download_channels(spec, store, folder.input_data, _ignore))
        if spec.checkpoint is not None:
            from clary.host.folder_sync import restore

            uri, path = spec.checkpoint.s3_uri, folder.of_checkpoints(spec.checkpoint.local_path)
            _run(spec, lambda store: restore(store, uri, path))

    def follow(self, spec: HostSpec, folder: HostFolder, report: Callable[[str], None]) -> Callable[[], None]:
        """Keep the prefixes of checkpoints and TensorBoard logs like their folders."""
        synced = [sync for sync in (spec.checkpoint, spec.tensorboard) if sync is not None]
        if not synced:
            return lambda: None
        from clary.host.folder_sync import FolderSync

        syncs = [FolderSync(spec.store, folder.of_checkpoints(sync.local_path), sync.s3_uri, report) for sync in synced]
        for sync in syncs:
            sync.start()

        def finish() -> None:
            for sync in syncs:
                try:
                    sync.finish()
                except (OSError, StoreError) as error:
                    raise _as_transfer_error(error) from error

        return finish

    def upload(self, spec: HostSpec, folder: HostFolder, *, with_model: bool) -> str | None:
        """Upload what a single host made."""
        from clary.host.outputs import upload_results

        return _run(
            spec, lambda store: upload_results(spec, store, folder.model, folder.output_data, with_model=with_model)
        )

    def stage(self, spec: HostSpec, folder: HostFolder) -> None:
        """Put this host's part where algo-1 finds it."""
        from clary.host.outputs import stage_results

        _run(spec, lambda store: stage_results(spec, store, folder.model, folder.output_data))

    def merge(self, spec: HostSpec, folder: HostFolder) -> str | None:
        """Make one of all hosts' parts."""
        from clary.host.outputs import merge_results

        scratch = folder.root / "scratch"
        return _run(spec, lambda store: merge_results(spec, store, folder.model, folder.output_data, scratch))


def _ignore(*_: object) -> None:
    """Progress of a download is shown by the job's phase alone."""


def _run(spec: HostSpec, work: Callable[[ObjectStore], Awaitable[Result]]) -> Result:
    """Do some work with a store of its own, and tell its failures as `TransferError`."""

    async def with_store() -> Result:
        store = ObjectStore(spec.store)
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        return asyncio.run(with_store())
    except Exception as error:
        raise _as_transfer_error(_first_cause(error)) from error


def _first_cause(error: BaseException) -> BaseException:
    """Of failures in several tasks at once, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _as_transfer_error(error: BaseException) -> BaseException:
    if isinstance(error, BucketMissing | ObjectMissing):
        return TransferError(str(error), by_request=True)
    if isinstance(error, StoreRefused):
        return TransferError(str(error), by_request=400 <= error.status < 500)
    if isinstance(error, StoreError):
        return TransferError(str(error), by_request=False)
    if isinstance(error, OSError):
        full = error.errno == errno.ENOSPC
        return TransferError(f"A file could not be read or written: {error}", by_request=full)
    return error
