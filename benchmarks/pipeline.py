"""How much faster pipeline stages train than one process, beside torch.distributed.pipelining on equal models.

One pinned core a rank, one thread each; where there are more ranks than cores, cores are shared. An MLP (8 layers of
1024, micro-batches of 256 examples) and a Transformer (8 blocks of 256, micro-batches of 8 × 64 tokens). Each library
is measured over its own single process: "parts" trains the same micro-batches one after the other on one core, "whole"
the whole batch in one call. The least of several steps counts, since other work on the machine only makes one longer,
and of some rounds the median.

Run: make bench NAME=pipeline, or python benchmarks/pipeline.py PART... with the parts planning, mlp, mlp_long,
transformer, schedules, four, plans; the rows of other parts stay as they are in results/pipeline.json.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from clary_parallel.graph import Graph, Operation
from clary_parallel.partitioning import make_plan
from clary_parallel.schedule import Costs, interleaved, simulate
from data_parallel import torch_python
from measure import RESULTS, Measurement, report

HERE = Path(__file__).parent
PROGRAMS = HERE / "pipeline_programs"
sys.path.insert(0, str(HERE.parent / "packages" / "clary-parallel" / "tests"))

from parallel_lab import SOURCE, environment  # noqa: E402

ONE_THREAD = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
PEER = "torch.distributed.pipelining"
ROUNDS = 5
Cases = dict[str, dict[str, Any]]


def clary(
    ranks: int, cases: Sequence[str], program: str = "clary.py", settings: Mapping[str, str] | None = None
) -> Cases:
    """Measure cases with clary-parallel; their results by case."""
    home = environment()
    variables = {
        **os.environ,
        **(settings or {}),
        **ONE_THREAD,
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(SOURCE),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [str(home / "bin" / "python"), str(PROGRAMS / program), *cases]
    if ranks > 1:
        launch = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
        if ranks > len(os.sched_getaffinity(0)):
            launch += ["--mca", "mpi_yield_when_idle", "1"]
        command = [str(home / "bin" / "mpirun"), *launch, *command]
    return found(subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600))


def torch(ranks: int, cases: Sequence[str]) -> Cases:
    """Measure cases with the peer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(ranks)}
    command = [str(torch_python()), str(PROGRAMS / "torch_peer.py"), *cases]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **ONE_THREAD, **place, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    ended = [process.communicate(timeout=600) for process in processes]
    return found(subprocess.CompletedProcess(command, processes[0].returncode, *ended[0]))


def found(done: subprocess.CompletedProcess[str]) -> Cases:
    if done.returncode:
        raise RuntimeError(f"{' '.join(done.args)} failed:\n{done.stderr[-3000:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line for line in lines}


def speed_ups(ranks: int, cases: Sequence[str], bars: dict[str, float]) -> tuple[list[Measurement], Cases]:
    """Rows of the speed-up over one process, ours beside the peer's; and our own measurements at their best."""
    alone = sorted(
        {" ".join((model, kind, count)) for model, _, count in map(str.split, cases) for kind in ("parts", "whole")}
    )
    # Each library's single process and its pipeline take turns, so that a slow minute of the machine meets both.
    rounds = [[{**measure(1, alone), **measure(ranks, cases)} for measure in (clary, torch)] for _ in range(ROUNDS)]
    ours, theirs = [mine for mine, _ in rounds], [peers for _, peers in rounds]
    rows: list[Measurement] = []
    for case in cases:
        model, schedule, count = case.split()
        name = f"{ranks} stages: {model}, {schedule}, {count} micro-batches"
        peers_step = median(each[case]["step"] for each in theirs) * 1e3
        for kind, words in (("parts", "the same micro-batches alone"), ("whole", "the whole batch alone")):
            one = " ".join((model, kind, count))
            mine, peers = (median(each[one]["step"] / each[case]["step"] for each in side) for side in (ours, theirs))
            bar = bars.get(case) if kind == "parts" else None
            ok = mine >= peers and (bar is None or mine >= bar)
            peer = f"{PEER} {peers:.2f} x ({peers_step:.0f} ms)"
            rows.append(Measurement(f"{name}, over {words}", mine, "x", peer, bar, ok))
        rows.append(Measurement(f"{name}: step", median(each[case]["step"] for each in ours) * 1e3, "ms"))
    return rows, {case: min((each[case] for each in ours), key=lambda result: result["step"]) for case in cases}


def mlp() -> list[Measurement]:
    """Two stages of the MLP on two cores, 8 micro-batches, by two schedules; and the overhead."""
    rows = two("mlp interleaved 8", 1.70, "mlp zero_bubble 8")
    tiny = clary(2, ["tiny interleaved 32"])["tiny interleaved 32"]["step"]
    # A rank runs a forward and a backward of each micro-batch, and next to no arithmetic.
    took = tiny / 32 * 1e3
    return [*rows, Measurement("2 stages: overhead for a micro-batch and stage", took, "ms", None, 0.5, took <= 0.5)]


def mlp_long() -> list[Measurement]:
    """Two stages of the MLP on two cores, 32 micro-batches, by two schedules."""
    return two("mlp interleaved 32", 1.80, "mlp zero_bubble 32")


def transformer() -> list[Measurement]:
    """Two stages of the Transformer on two cores, 8 micro-batches."""
    return two("transformer interleaved 8", None)


def two(case: str, bar: float | None, *others: str) -> list[Measurement]:
    """Two stages on two cores: the speed-up, also of other cases with the same bar; the bubble, the prediction."""
    cases = [case, *others]
    rows, ours = speed_ups(2, cases, {} if bar is None else dict.fromkeys(cases, bar))
    model, _, count = case.split()
    microbatches, watched = int(count), ours[case]["watched"]
    step, busy = watched["step"], sum(watched["busy"])
    # The last stage runs its forward and backward as one: its F is both.
    first, last = watched["means"]
    costs = Costs(
        forward=np.array([first["F0"], last["F1"] / 3]),
        backward=np.array([first["B0"], last["F1"] * 2 / 3]),
        weight=np.array([0.0, last["F1"] / 3]),
        update=np.array(watched["update"]),
        inputs_first=True,
    )
    predicted = simulate(interleaved(2, microbatches), costs).step_time
    bubble, equal, theory = 1 - busy / (2 * step), 1 / (microbatches + 1), 1 - busy / (2 * predicted)
    name = f"2 stages: {model}, {microbatches} micro-batches"
    # The first layer needs no gradient of its input, so that the stages never have equal work.
    theories = f"theory {theory:.3f}; were the stages equal {equal:.3f}"
    most = theory + 0.02
    rows.append(Measurement(f"{name}: bubble", bubble, "", theories, most, bubble <= most))
    error = abs(predicted - step) / step
    rows.append(Measurement(f"{name}: predicted against measured step", error, "", None, 0.1, error <= 0.1))
    return rows


def schedules() -> list[Measurement]:
    """The other schedules on two cores."""
    cases = [f"{model} {kind} 8" for model in ("mlp", "transformer") for kind in ("simple", "virtual")]
    return speed_ups(2, [*cases, "transformer zero_bubble 8"], {})[0]


def four() -> list[Measurement]:
    """Four stages, which share the cores where there are fewer."""
    kinds = ("simple", "interleaved", "virtual", "zero_bubble")
    return speed_ups(4, [f"{model} {kind} 8" for model in ("mlp", "transformer") for kind in kinds], {})[0]


def plans() -> list[Measurement]:
    """Automatic plans beside every other contiguous plan, by measured time."""
    rows: list[Measurement] = []
    with tempfile.TemporaryDirectory() as folder:  # times that were measured on a busy machine are not to count
        fresh = {"CLARY_PARALLEL_CACHE": f"{folder}/operations.json"}
        measured = clary(2, ["mlp", "residual", "inception", "transformer", "u_net"], "plans.py", fresh)
    for family, result in measured.items():
        ratio = min(result["steps"].values()) / result["automatic"]
        peer = f"best of {len(result['steps'])} contiguous plans"
        rows.append(Measurement(f"automatic plan: {family}", ratio, "x", peer, 0.97, ratio >= 0.97))
    return rows


def planning() -> list[Measurement]:
    """How long planning and simulating take."""
    random = np.random.default_rng(0)
    operations = tuple(
        Operation(
            f"op{i}", (i - 1,) if i else (), *(int(size) for size in random.integers(1, 10**6, 3)), random.random()
        )
        for i in range(10_000)
    )
    graph = Graph(operations, (9_999,))
    planned = seconds(lambda: make_plan(graph, 64))
    simulated = seconds(lambda: simulate(interleaved(1_024, 4_096), Costs(communication=0.1)))
    return [
        Measurement("plan of 10,000 operations x 64 stages", planned, "s", None, 1.0, planned <= 1.0),
        Measurement("simulation of 1,024 stages x 4,096 micro-batches", simulated, "s", None, 10.0, simulated <= 10.0),
    ]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


PARTS = {
    "planning": planning,
    "mlp": mlp,
    "mlp_long": mlp_long,
    "transformer": transformer,
    "schedules": schedules,
    "four": four,
    "plans": plans,
}


def main(chosen: Sequence[str]) -> None:
    unknown = set(chosen) - set(PARTS)
    if unknown:
        raise SystemExit(f"Parts are {', '.join(PARTS)}. Received: {', '.join(sorted(unknown))}.")
    file = RESULTS / "pipeline.json"
    rows = {row["name"]: Measurement(**row) for row in json.loads(file.read_text())} if file.exists() and chosen else {}
    for part in chosen or PARTS:
        rows.update((row.name, row) for row in PARTS[part]())
    report("pipeline", rows.values())


if __name__ == "__main__":
    main(sys.argv[1:])
