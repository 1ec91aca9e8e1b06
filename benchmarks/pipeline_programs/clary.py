"""One rank of the pipeline benchmark with clary-parallel; see ../pipeline.py. Prints one line of JSON a case on rank 0.

Arguments: cases, each "model schedule microbatches". Alone, the schedule is "whole" (the batch in one call of Keras's
own training step, as XLA compiles it) or "parts" (the same micro-batches one after the other).
"""

import json
import os
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import clary_parallel
from clary_parallel.data import world

L = keras.layers
WIDTH, MLP_LAYERS, MLP_EXAMPLES = 1024, 8, 256
SIZE, LENGTH, BLOCKS, HEADS, SEQUENCES = 256, 64, 8, 4, 8
WARM_UP, SECONDS, STEPS_AT_LEAST = 1, 1.5, 2


def mlp() -> Any:
    layers = [L.Dense(WIDTH, activation="relu") for _ in range(MLP_LAYERS)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers])


def transformer() -> Any:
    inputs = x = keras.Input((LENGTH, SIZE))
    for _ in range(BLOCKS):
        x = L.LayerNormalization()(x + L.MultiHeadAttention(HEADS, SIZE // HEADS)(x, x))
        x = L.LayerNormalization()(x + L.Dense(SIZE)(L.Dense(4 * SIZE, activation="relu")(x)))
    return keras.Model(inputs, x)


def tiny() -> Any:
    """Next to no arithmetic: its step is overhead."""
    return keras.Sequential([keras.Input((8,)), *(L.Dense(8, activation="relu") for _ in range(4))])


SHAPES = {"mlp": (MLP_EXAMPLES, WIDTH), "transformer": (SEQUENCES, LENGTH, SIZE), "tiny": (4, 8)}
BUILD = {"mlp": mlp, "transformer": transformer, "tiny": tiny}


def times_of(step: Any) -> list[float]:
    times: list[float] = []
    began = time.perf_counter()
    while True:
        world.transport().barrier()
        start = time.perf_counter()
        step()
        world.transport().barrier()
        times.append(time.perf_counter() - start)
        enough = len(times) >= WARM_UP + STEPS_AT_LEAST and time.perf_counter() - began > SECONDS
        if world.transport().broadcast_object(enough):
            return times[WARM_UP:]


def measure(name: str, kind: str, microbatches: int) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    examples, *shape = SHAPES[name]
    x = np.random.default_rng(0).normal(size=(examples * microbatches, *shape)).astype("float32")
    if kind == "whole":
        model = BUILD[name]()
        model.compile("sgd", "mse")
        batch = tf.constant(x)
        return {"step": min(times_of(lambda: model.train_on_batch(batch, batch)))}
    ranks = world.size()
    options: dict[str, Any] = {"schedule": "interleaved" if kind in ("parts", "virtual") else kind}
    options["virtual"] = 2 if kind == "virtual" else 1
    piped = clary_parallel.pipeline(
        BUILD[name], ranks, microbatches, memory_weight=0.0, profile=False, microbatch_size=examples, **options
    )
    piped.compile("sgd", "mse")
    times = times_of(lambda: piped.train_on(x, x))
    return {"step": min(times), **({"watched": watched(piped, x)} if kind == "interleaved" else {})}


def watched(piped: Any, x: Any) -> dict[str, Any]:
    """The shortest of some steps in detail: what each rank did in it."""
    steps: list[list[tuple[str, float]]] = []
    piped.observe(lambda action, began, ended: steps[-1].append((f"{action.work.letter}{action.stage}", ended - began)))

    def step() -> None:
        steps.append([])
        piped.train_on(x, x)

    times = times_of(step)
    piped.observe(None)
    best = world.transport().broadcast_object(int(np.argmin(times)))
    actions = steps[WARM_UP + best]
    names = {name for name, _ in actions}
    means = {name: float(np.mean([took for each, took in actions if each == name])) for name in names}
    everyone = world.transport().allgather_object((means, sum(took for _, took in actions), piped.last_update_seconds))
    return {
        "step": times[best],
        "means": [each[0] for each in everyone],
        "busy": [each[1] for each in everyone],
        "update": [each[2] for each in everyone],
    }


world.init()
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[world.rank() % len(cores)]})
tf.config.threading.set_intra_op_parallelism_threads(1)
for case in sys.argv[1:]:
    model_name, schedule_name, count = case.split()
    found = measure(model_name, schedule_name, int(count))
    if world.rank() == 0:
        print(json.dumps({"case": case, **found}), flush=True)
