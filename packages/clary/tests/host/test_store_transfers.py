"""A host's inputs and results in a real object store."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from clary.host.spec import Channel, Output, Peer
from clary.settings import Settings
from clary.storage.client import ObjectStore
from clary.storage.seaweed import EmbeddedStore

MakeHost = Callable[..., "Host"]  # noqa: F821 (of conftest, which tests do not import)

pytestmark = [
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap (the program bwrap)"),
    pytest.mark.asyncio(loop_scope="module"),
]

OUTPUT = Output(
    model_uri="s3://bucket/job/output/model.tar.gz",
    output_uri="s3://bucket/job/output/output.tar.gz",
    staging_uri="s3://bucket/job/output/.staging-1/",
)
PEERS = tuple(Peer(name=f"algo-{n}", instance_type="ml.m5.large", instance_group="g") for n in (1, 2))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ObjectStore]:
    embedded = EmbeddedStore(Settings(home=tmp_path_factory.mktemp("home")))
    await embedded.start()
    client = ObjectStore(embedded.access)
    await client.create_bucket("bucket")
    yield client
    await client.close()
    await embedded.stop()


async def test_inputs_come_from_the_store_and_results_go_there(make_host: MakeHost, store: ObjectStore) -> None:
    await store.write("bucket", "data/train/a.csv", b"1,2")
    host = make_host(
        "import shutil; shutil.copy('/opt/ml/input/data/train/a.csv', '/opt/ml/model/copy'); "
        "open('/opt/ml/output/data/eval','w').write('e')",
        channels=(Channel(name="train", s3_uri="s3://bucket/data/train/"),),
        output=OUTPUT,
        store=store.access,
    )
    ending = await asyncio.to_thread(host.run, TEST_WITH_STORE="1")
    assert ending.cause == "Completed", (ending, host.log)
    assert ending.model_artifact == OUTPUT.model_uri
    assert await _members(store, "job/output/model.tar.gz") == {"copy": b"1,2"}
    assert await _members(store, "job/output/output.tar.gz") == {"eval": b"e"}


async def test_an_input_that_is_not_there_is_the_request_s_fault(make_host: MakeHost, store: ObjectStore) -> None:
    host = make_host(channels=(Channel(name="train", s3_uri="s3://nosuch/x"),), output=OUTPUT, store=store.access)
    ending = await asyncio.to_thread(host.run, TEST_WITH_STORE="1")
    assert ending.cause == "ClientError"
    assert "nosuch" in ending.message


async def test_a_result_that_cannot_be_uploaded_fails_the_job(make_host: MakeHost, store: ObjectStore) -> None:
    output = OUTPUT.model_copy(update={"model_uri": "s3://nosuch/model.tar.gz"})
    host = make_host("open('/opt/ml/model/m','w').write('m')", output=output, store=store.access)
    ending = await asyncio.to_thread(host.run, TEST_WITH_STORE="1")
    assert ending.cause == "ClientError"
    assert ending.message.startswith("Artifact upload failed:")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2")
async def test_results_of_several_hosts_become_one(make_host: MakeHost, servers: list, store: ObjectStore) -> None:
    script = "import socket; me = socket.gethostname(); open('/opt/ml/model/' + me, 'w').write(me)"
    first, second = (
        make_host(script, server=server, host=peer.name, peers=PEERS, output=OUTPUT, store=store.access)
        for peer, server in zip(PEERS, servers, strict=True)
    )
    for host in (first, second):
        host.start(TEST_WITH_STORE="1")
    ending = await asyncio.to_thread(second.server.wait_for_ending)
    assert ending.cause == "Completed", second.log
    first.server.merge = True
    ending = await asyncio.to_thread(first.server.wait_for_ending)
    assert ending.model_artifact == OUTPUT.model_uri, first.log
    assert await _members(store, "job/output/model.tar.gz") == {"algo-1": b"algo-1", "algo-2": b"algo-2"}
    assert not await store.any_object("bucket", "job/output/.staging-1/")


async def _members(store: ObjectStore, key: str) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(await store.read("bucket", key))) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive if member.isreg()}
