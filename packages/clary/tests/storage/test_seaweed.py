"""The embedded store's process: ready, private, restarted, adopted, gone when stopped."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import psutil
import pytest

from clary.settings import Settings
from clary.storage import seaweed, seaweed_config
from clary.storage.client import ObjectStore
from clary.storage.seaweed import EmbeddedStore, ExternalStore, open_store
from clary.storage.seaweed_config import StoreFailed, StoreFiles
from clary.storage.transfer import upload_stream


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def running_on(home: Path) -> list[int]:
    """The stores' processes on this home."""
    folder = f"-dir={home}/store/data"
    found = [process for process in psutil.process_iter(["cmdline"]) if folder in (process.info["cmdline"] or [])]
    return [process.pid for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EmbeddedStore]:
    store = EmbeddedStore(Settings(home=tmp_path))
    await store.start()
    yield store
    monkeypatch.setattr(seaweed, "_STOP_SECONDS", 0.05)  # of more than a second: its data are needed no more
    await store.stop()


async def test_a_killed_store_is_back_with_its_data_and_address(store: EmbeddedStore) -> None:
    client = ObjectStore(store.access, patience=20)
    await client.create_bucket("kept")
    await client.write("kept", "before", b"1" * 100_000)
    address, killed = store.access, store.pid
    assert killed
    os.kill(killed, signal.SIGKILL)
    assert await client.read("kept", "before") == b"1" * 100_000  # waits until it is back
    await until(lambda: store.restarts == 1)
    assert (store.access, store.pid != killed) == (address, True)
    await client.close()


@pytest.mark.slow
async def test_a_port_that_is_taken_before_its_use_costs_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose, taken = seaweed_config.choose_ports, list[socket.socket]()

    def choose_and_lose_one(files: StoreFiles) -> dict[str, int]:
        ports = choose(files)
        if not taken:
            taken.append(socket.create_server((seaweed_config.LOOPBACK, ports["s3.port"])))
        return ports

    monkeypatch.setattr(seaweed_config, "choose_ports", choose_and_lose_one)
    store = EmbeddedStore(Settings(home=tmp_path))
    await store.start()
    assert not store.access.endpoint.endswith(f":{taken[0].getsockname()[1]}")
    await store.stop()
    taken[0].close()


async def test_an_upload_survives_the_death_of_the_store(store: EmbeddedStore) -> None:
    client = ObjectStore(store.access, patience=30)
    await client.create_bucket("kept")
    chunks = [bytes([number]) * (8 << 20) for number in range(10)]

    async def content() -> AsyncIterator[bytes]:
        for number, chunk in enumerate(chunks):
            if number == 6:
                assert store.pid
                os.kill(store.pid, signal.SIGKILL)
            yield chunk

    assert await upload_stream(client, "kept", "artifact", content()) == 80 << 20
    info = await client.head("kept", "artifact")
    assert info is not None
    for number, chunk in enumerate(chunks):
        first = number * len(chunk)
        assert b"".join(await client.read_chunks("kept", "artifact", first, len(chunk), info.etag)) == chunk
    await client.close()


async def test_a_store_that_is_stopped_while_it_is_restarted_leaves_nothing(tmp_path: Path) -> None:
    store = EmbeddedStore(Settings(home=tmp_path))
    for pause in (0.19, 0.2, 0.21, 0.25):
        await store.start()
        assert store.pid
        os.kill(store.pid, signal.SIGKILL)
        await asyncio.sleep(pause)  # the moment at which the watcher starts another
        await store.stop()
        assert running_on(tmp_path) == []


async def test_encrypted_objects_can_be_read_after_a_restart(store: EmbeddedStore) -> None:
    client = ObjectStore(store.access, patience=20)
    await client.create_bucket("kept")
    await client.call("PUT", "kept", "k", headers={"x-amz-server-side-encryption": "AES256"}, body=b"secret" * 1000)
    await store.stop()
    await store.start()
    assert await client.read("kept", "k") == b"secret" * 1000
    await client.close()


@pytest.mark.slow
async def test_the_next_server_adopts_the_store_of_a_killed_one(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, pathlib, sys\n"
        "from clary.settings import Settings\n"
        "from clary.storage.seaweed import EmbeddedStore\n"
        "store = EmbeddedStore(Settings(home=pathlib.Path(sys.argv[1])))\n"
        "asyncio.run(store.start())\n"
        "print(store.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    first = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    orphan = int(first.stdout)
    store = EmbeddedStore(Settings(home=tmp_path))
    await store.start()
    assert store.pid == orphan
    os.kill(orphan, signal.SIGKILL)  # adopted means watched, too
    await until(lambda: store.restarts == 1)
    await store.stop()
    assert running_on(tmp_path) == []


@pytest.mark.slow
async def test_an_orphan_without_record_is_found_and_one_that_hangs_is_replaced(
    store: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seaweed, "_YOUNG_SECONDS", 0.0)
    monkeypatch.setattr(seaweed, "_ADOPTION_SECONDS", 1.0)
    (tmp_path / "store" / "process.json").unlink()
    second = EmbeddedStore(Settings(home=tmp_path))
    assert store.pid
    os.kill(store.pid, signal.SIGSTOP)
    old = store.pid
    await second.start()
    assert second.pid != old
    assert not psutil.pid_exists(old) or psutil.Process(old).status() == psutil.STATUS_ZOMBIE
    await second.stop()
    await store.stop()  # its watcher may just be about to start another
    assert running_on(tmp_path) == []


async def test_nothing_answers_without_keys(store: EmbeddedStore, tmp_path: Path) -> None:
    client = ObjectStore(store.access)
    await client.create_bucket("private")
    await client.write("private", "k", b"secret")
    await client.close()
    ports = orjson.loads((tmp_path / "store" / "ports.json").read_bytes())

    def ask(port: str, method: str, path: str, *, tls: bool = False) -> int | None:
        kind = http.client.HTTPSConnection if tls else http.client.HTTPConnection
        options = {"context": ssl._create_unverified_context()} if tls else {}
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = kind("127.0.0.1", ports[port], timeout=5, **options)
            connection.request(method, path)
            return connection.getresponse().status
        return None

    refused = {None, 400, 401, 403}
    assert ask("s3.port", "GET", "/private/k") in refused
    assert ask("filer.port", "GET", "/buckets/private/k") in refused
    assert ask("filer.port", "DELETE", "/buckets/private/k") in refused
    assert ask("filer.port", "GET", "/buckets/private/?pretty=y") in refused
    assert ask("volume.port", "DELETE", "/1,0123456789ab") in refused
    assert ask("volume.port", "GET", "/1,0123456789ab") in refused
    for path in ("/col/delete?collection=private", "/dir/assign", "/vol/status"):
        assert ask("master.port", "GET", path) in refused
        assert ask("master.port", "GET", path, tls=True) in refused
    for name in ("master", "volume", "filer", "s3", "admin"):
        assert ask(f"{name}.port.grpc", "GET", "/") in refused


async def test_its_keys_are_for_their_owner_only(store: EmbeddedStore, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir() if path.name != "store.log")
    assert store.access.secret_key not in repr(store.access)
    process = psutil.Process(store.pid)
    assert not any(store.access.secret_key in word for word in process.cmdline())


async def test_idle_memory_is_bounded(store: EmbeddedStore) -> None:
    memory = store.memory_bytes()
    assert memory
    assert memory < 300 << 20


async def test_a_second_store_does_not_start_on_the_same_folder(store: EmbeddedStore, tmp_path: Path) -> None:
    second = EmbeddedStore(Settings(home=tmp_path))
    await second.start()
    assert second.pid == store.pid
    second_watcher = second._watcher
    assert second_watcher
    second_watcher.cancel()


def test_another_s3_is_used_when_named(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, s3_endpoint="http://10.0.0.1:9000/", s3_access_key="a", s3_secret_key="b")
    store = open_store(settings)
    assert isinstance(store, ExternalStore)
    assert store.access.endpoint == "http://10.0.0.1:9000"
    with pytest.raises(StoreFailed, match="CLARY_S3_ACCESS_KEY"):
        open_store(Settings(home=tmp_path, s3_endpoint="http://10.0.0.1:9000"))


@pytest.mark.slow
async def test_many_buckets_take_no_more_room_than_what_is_in_them(object_store: ObjectStore) -> None:
    names = [f"one-of-many-{number}" for number in range(40)]
    for name in names:
        await object_store.create_bucket(name)
        await object_store.write(name, "key", b"content")
    assert await object_store.read(names[-1], "key") == b"content"
