"""One rank of the pipeline benchmark with clary-parallel; see pipeline.py. Prints one line of JSON on rank 0."""

import json
import os
import statistics
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import clary_parallel
from clary_parallel.data import world

LAYERS, WIDTH, EXAMPLES, STEPS = 8, 1024, 64, 8

partitions, microbatches = int(sys.argv[1]), int(sys.argv[2])
world.init()
rank = world.rank()
os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
tf.config.threading.set_intra_op_parallelism_threads(1)
keras.utils.set_random_seed(0)
model = keras.Sequential(
    [keras.Input((WIDTH,)), *(keras.layers.Dense(WIDTH, activation="relu") for _ in range(LAYERS))]
)
x = np.random.default_rng(0).normal(size=(EXAMPLES * microbatches, WIDTH)).astype("float32")


def median_step(step: object) -> float:
    times = []
    for _ in range(3 + STEPS):
        world.transport().barrier()
        began = time.perf_counter()
        step()  # type: ignore[operator]
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:])


if partitions == 1:
    model.compile("sgd", "mse")
    batch = tf.constant(x)
    print(json.dumps({"step": median_step(lambda: model.train_on_batch(batch, batch))}))
    sys.exit()
piped = clary_parallel.pipeline(model, partitions, microbatches, optimize="speed", microbatch_size=EXAMPLES)
piped.compile("sgd", "mse")
step = median_step(lambda: piped.train_on(x, x))
seen: dict[str, list[float]] = {}
piped.observe(lambda action, began, ended: seen.setdefault(action.work.letter, []).append(ended - began))
began = time.perf_counter()
for _ in range(STEPS):
    piped.train_on(x, x)
watched = (time.perf_counter() - began) / STEPS
busy = sum(sum(times) for times in seen.values()) / STEPS
means = {letter: statistics.median(times) for letter, times in seen.items()}
everyone = world.transport().allgather_object({"busy": busy, "means": means, "step": watched})
if rank == 0:
    print(json.dumps({"step": step, "ranks": everyone}))
