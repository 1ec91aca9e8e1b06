"""What the programs share: a core for each process, and how step times are written down."""

import json
import os
from pathlib import Path

WARM_UP = 3


def pin(local_rank: int) -> None:
    """Keep this process on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[local_rank % len(cores)]})


def write(name: str, rank: int, times: list[float]) -> None:
    """Write the fastest step's seconds, the first steps left out: whatever else runs on the machine only adds time."""
    folder = Path(os.environ["BENCHMARK_REPORTS"])
    (folder / f"{name}-{rank}.json").write_text(json.dumps(min(times[WARM_UP:])))
