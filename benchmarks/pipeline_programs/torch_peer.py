"""One rank of the pipeline benchmark with torch.distributed.pipelining; see ../pipeline.py.

Arguments as clary.py's. Prints one line of JSON a case.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, schedules

WIDTH, MLP_LAYERS, MLP_EXAMPLES = 1024, 8, 256
SIZE, LENGTH, BLOCKS, HEADS, SEQUENCES = 256, 64, 8, 4, 8
WARM_UP, SECONDS, STEPS_AT_LEAST = 1, 1.5, 2
SCHEDULES = {
    "simple": schedules.ScheduleGPipe,
    "interleaved": schedules.Schedule1F1B,
    "virtual": schedules.ScheduleInterleaved1F1B,
    "zero_bubble": schedules.ScheduleInterleavedZeroBubble,
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
        self.first, self.second = nn.LayerNorm(SIZE, eps=1e-3), nn.LayerNorm(SIZE, eps=1e-3)
        self.inner = nn.Sequential(nn.Linear(SIZE, 4 * SIZE), nn.ReLU(), nn.Linear(4 * SIZE, SIZE))

    def forward(self, x: Any) -> Any:
        x = self.first(x + self.attention(x, x, x, need_weights=False)[0])
        return self.second(x + self.inner(x))


def parts(name: str) -> list[Any]:
    if name == "mlp":
        return [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(MLP_LAYERS)]
    return [Block() for _ in range(BLOCKS)]


SHAPES = {"mlp": (MLP_EXAMPLES, WIDTH), "transformer": (SEQUENCES, LENGTH, SIZE)}


def times_of(step: Callable[[], None]) -> list[float]:
    times: list[float] = []
    began = time.perf_counter()
    while True:
        meet()
        start = time.perf_counter()
        step()
        meet()
        times.append(time.perf_counter() - start)
        enough = torch.tensor([len(times) >= WARM_UP + STEPS_AT_LEAST and time.perf_counter() - began > SECONDS])
        if ranks > 1:
            dist.broadcast(enough, 0)
        if bool(enough):
            return times[WARM_UP:]


def meet() -> None:
    if ranks > 1:
        dist.barrier()


def measure(name: str, kind: str, microbatches: int) -> dict[str, Any]:
    torch.manual_seed(0)
    layers = parts(name)
    examples, *shape = SHAPES[name]
    x = torch.randn(examples * microbatches, *shape)
    loss = nn.MSELoss()
    if ranks == 1:
        model = nn.Sequential(*layers)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)

        def alone() -> None:
            optimizer.zero_grad()
            for part in x.chunk(microbatches if kind == "parts" else 1):
                loss(model(part), part).backward()
            optimizer.step()

        return {"step": min(times_of(alone))}
    virtual = 2 if kind == "virtual" else 1
    count = ranks * virtual
    size = len(layers) // count
    own = [nn.Sequential(*layers[number * size : (number + 1) * size]) for number in range(rank, count, ranks)]
    device = torch.device("cpu")
    stages = [PipelineStage(model, rank + place * ranks, count, device) for place, model in enumerate(own)]
    several = kind in ("virtual", "zero_bubble")
    schedule = SCHEDULES[kind](stages if several else stages[0], microbatches, loss_fn=loss)
    optimizer = torch.optim.SGD([weight for model in own for weight in model.parameters()], 0.01)

    def step() -> None:
        optimizer.zero_grad()
        first, last = rank == 0, rank == ranks - 1
        schedule.step(*([x] if first else []), **({"target": x, "losses": []} if last else {}))
        optimizer.step()

    times = times_of(step)
    return {"step": min(times), "median": sorted(times)[len(times) // 2]}


rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[rank % len(cores)]})
torch.set_num_threads(1)
if ranks > 1:
    dist.init_process_group("gloo")
for case in sys.argv[1:]:
    model_name, schedule_name, count = case.split()
    found = measure(model_name, schedule_name, int(count))
    if rank == 0:
        print(json.dumps({"case": case, **found}), flush=True)
if ranks > 1:
    dist.destroy_process_group()
