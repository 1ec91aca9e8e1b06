"""How much faster two pipeline stages on two cores train than one core, beside torch.distributed.pipelining.

The same dense net (8 layers of 1024, micro-batches of 64), the 1F1B schedule, one pinned core a rank; each library over
its own single process on one core. Then how long planning and simulating take.

Run: make bench NAME=pipeline
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from clary_parallel.graph import Graph, Operation
from clary_parallel.partitioning import make_plan
from clary_parallel.schedule import Costs, interleaved, simulate
from measure import Measurement, report

HERE = Path(__file__).parent
TESTS = HERE.parent / "packages" / "clary-parallel" / "tests"
PEER_HOME = Path(os.environ.get("CLARY_BENCH_TORCH", "~/.cache/clary-bench-torch")).expanduser()
ROUNDS = 3
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def clary(partitions: int, microbatches: int) -> dict[str, Any]:
    sys.path.insert(0, str(TESTS))
    import parallel_lab

    home = parallel_lab.environment()
    variables = {
        **os.environ,
        **ONE_THREAD,
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(parallel_lab.SOURCE),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [str(home / "bin" / "python"), str(HERE / "pipeline_clary.py"), str(partitions), str(microbatches)]
    if partitions > 1:
        launch = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(partitions)]
        command = [str(home / "bin" / "mpirun"), *launch, *command]
    return last_line(subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout)


def torch(partitions: int, microbatches: int) -> dict[str, Any]:
    if not (PEER_HOME / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER_HOME)], check=True)
        subprocess.run([str(PEER_HOME / "bin" / "pip"), "install", "-q", "torch==2.13.0", "numpy"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(partitions):
        place = {"RANK": str(rank), "WORLD_SIZE": str(partitions), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [
            str(PEER_HOME / "bin" / "python"),
            str(HERE / "pipeline_torch.py"),
            str(partitions),
            str(microbatches),
        ]
        ranks.append(
            subprocess.Popen(command, env={**os.environ, **ONE_THREAD, **place}, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate(timeout=300)[0] for process in ranks]
    return last_line(outputs[0])


def last_line(text: str) -> dict[str, Any]:
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return json.loads(lines[-1])


def pipelines() -> list[Measurement]:
    rows: list[Measurement] = []
    for microbatches, bar in ((8, 1.70), (32, 1.80)):
        found: dict[str, list[Any]] = {"ours": [], "torch": [], "piped": []}
        for _ in range(ROUNDS):
            piped = clary(2, microbatches)
            found["ours"].append(clary(1, microbatches)["step"] / piped["step"])
            found["torch"].append(torch(1, microbatches)["step"] / torch(2, microbatches)["step"])
            found["piped"].append(piped)
        ours, peer = statistics.median(found["ours"]), statistics.median(found["torch"])
        rows.append(
            Measurement(
                f"speed-up of 2 stages, {microbatches} micro-batches",
                ours,
                "x",
                f"torch.distributed.pipelining {peer:.2f} x",
                bar,
                ours >= bar and ours >= peer,
            )
        )
        ranks = min((item["ranks"] for item in found["piped"]), key=lambda each: each[0]["step"])
        step = max(rank["step"] for rank in ranks)
        bubble = 1 - sum(rank["busy"] for rank in ranks) / (2 * step)
        theory = 1 / (microbatches + 1)
        bar = theory + 0.02
        rows.append(
            Measurement(f"bubble, {microbatches} micro-batches", bubble, "", f"theory {theory:.3f}", bar, bubble <= bar)
        )
        # The last stage runs its forward and backward as one: its F is both.
        first, last = (rank["means"] for rank in ranks)
        costs = Costs(forward=np.array([first["F"], last["F"] / 3]), backward=np.array([first["B"], last["F"] * 2 / 3]))
        predicted = simulate(interleaved(2, microbatches), costs).step_time
        error = abs(predicted - step) / step
        rows.append(
            Measurement(
                f"predicted against measured step, {microbatches} micro-batches", error, "", None, 0.1, error <= 0.1
            )
        )
    return rows


def planning() -> list[Measurement]:
    random = np.random.default_rng(0)
    operations = tuple(
        Operation(
            f"op{i}", (i - 1,) if i else (), *(int(size) for size in random.integers(1, 10**6, 3)), random.random()
        )
        for i in range(10_000)
    )
    began = time.perf_counter()
    make_plan(Graph(operations, (9_999,)), 64)
    planned = time.perf_counter() - began
    began = time.perf_counter()
    simulate(interleaved(1_024, 4_096), Costs(communication=0.1))
    simulated = time.perf_counter() - began
    return [
        Measurement("plan of 10,000 operations x 64 stages", planned, "s", None, 1.0, planned <= 1.0),
        Measurement("simulation of 1,024 stages x 4,096 micro-batches", simulated, "s", None, 10.0, simulated <= 10.0),
    ]


if __name__ == "__main__":
    report("pipeline", [*planning(), *pipelines()])
