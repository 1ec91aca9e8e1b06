"""One rank of the pipeline benchmark with torch.distributed.pipelining; see pipeline.py. Prints one line of JSON."""

import json
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

LAYERS, WIDTH, EXAMPLES, STEPS = 8, 1024, 64, 8

partitions, microbatches, rank = int(sys.argv[1]), int(sys.argv[2]), int(os.environ.get("RANK", "0"))
os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
torch.set_num_threads(1)
torch.manual_seed(0)
here = LAYERS // partitions
layers = [module for _ in range(here) for module in (torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU())]
model = torch.nn.Sequential(*layers)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
x = torch.randn(EXAMPLES * microbatches, WIDTH)
loss = torch.nn.MSELoss()
if partitions > 1:
    dist.init_process_group("gloo")
    stage = PipelineStage(model, rank, partitions, torch.device("cpu"))
    schedule = Schedule1F1B(stage, microbatches, loss_fn=loss)


def step() -> None:
    optimizer.zero_grad()
    if partitions == 1:
        loss(model(x), x).backward()
    elif rank == 0:
        schedule.step(x)
    else:
        schedule.step(target=x, losses=[])
    optimizer.step()


times = []
for _ in range(3 + STEPS):
    if partitions > 1:
        dist.barrier()
    began = time.perf_counter()
    step()
    if partitions > 1:
        dist.barrier()
    times.append(time.perf_counter() - began)
if rank == 0:
    print(json.dumps({"step": statistics.median(times[3:])}))
if partitions > 1:
    dist.destroy_process_group()
