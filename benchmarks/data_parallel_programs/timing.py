"""What the programs share: a core for each process, and how step times are written down."""

import json
import os
import statistics
from pathlib import Path

WARM_UP = 3


def pin(local_rank: int) -> None:
    """Keep this process on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[local_rank % len(cores)]})


def write(name: str, rank: int, times: list[float]) -> None:
    """Write the median step time in seconds, without the first steps."""
    folder = Path(os.environ["BENCHMARK_REPORTS"])
    (folder / f"{name}-{rank}.json").write_text(json.dumps(statistics.median(times[WARM_UP:])))
