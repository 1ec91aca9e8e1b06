"""Every contiguous plan of two stages against the automatic one, by measured step time; see ../pipeline.py.

Arguments: families of models. Each boundary of the model's own order is tried, at most 12 of them, evenly spread; then
the plan that measured times of operations give. Plans take turns, so that a slow minute of the machine meets them all.
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
from clary_parallel.analyse import trace_model
from clary_parallel.data import world
from clary_parallel.graph import lines
from clary_parallel.pipelining.held import describe_model

L = keras.layers
MICROBATCHES, PLANS, TURNS = 4, 8, 3


def mlp() -> Any:
    widths = [1024, 1024, 512, 512, 256, 1024, 1024, 512]
    return keras.Sequential([keras.Input((1024,)), *(L.Dense(width, activation="relu") for width in widths)])


def residual() -> Any:
    inputs = keras.Input((32, 32, 3))
    x = L.Conv2D(32, 3, padding="same")(inputs)
    for width in (32, 32, 64, 64):
        short = x if x.shape[-1] == width else L.Conv2D(width, 1)(x)
        y = L.ReLU()(L.BatchNormalization()(L.Conv2D(width, 3, padding="same")(x)))
        x = L.ReLU()(short + L.BatchNormalization()(L.Conv2D(width, 3, padding="same")(y)))
    return keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))


def inception() -> Any:
    inputs = keras.Input((32, 32, 3))
    x = L.Conv2D(32, 3, padding="same", activation="relu")(inputs)
    for _ in range(4):
        branches = [L.Conv2D(16, size, padding="same", activation="relu")(x) for size in (1, 3, 5)]
        x = L.Concatenate()([*branches, L.AveragePooling2D(3, strides=1, padding="same")(x)])
    return keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))


def transformer() -> Any:
    inputs = x = keras.Input((64, 128))
    for _ in range(4):
        x = L.LayerNormalization()(x + L.MultiHeadAttention(4, 32)(x, x))
        x = L.LayerNormalization()(x + L.Dense(128)(L.Dense(512, activation="relu")(x)))
    return keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling1D()(x)))


def u_net() -> Any:
    inputs = keras.Input((32, 32, 3))
    a = L.Conv2D(32, 3, padding="same", activation="relu")(inputs)
    b = L.Conv2D(64, 3, strides=2, padding="same", activation="relu")(a)
    c = L.Conv2D(64, 3, strides=2, padding="same", activation="relu")(b)
    up = L.Conv2D(64, 3, padding="same", activation="relu")(L.Concatenate()([L.UpSampling2D()(c), b]))
    up = L.Conv2D(32, 3, padding="same", activation="relu")(L.Concatenate()([L.UpSampling2D()(up), a]))
    return keras.Model(inputs, L.GlobalAveragePooling2D()(up))


FAMILIES = {"mlp": mlp, "residual": residual, "inception": inception, "transformer": transformer, "u_net": u_net}
EXAMPLES = {"mlp": 128, "residual": 8, "inception": 8, "transformer": 8, "u_net": 8}


def measure(family: str) -> dict[str, Any]:
    build, examples = FAMILIES[family], EXAMPLES[family]
    keras.utils.clear_session()
    traced = trace_model(describe_model(build), examples)
    operations = traced.graph.operations
    order = lines(traced.graph)[0].blocks
    costs = [sum(operations[index].seconds for index in block) for block in order]
    # Boundaries before or after an operation that costs nothing give the same plan by time.
    boundaries = [place for place in range(1, len(order)) if costs[place - 1] > 0]
    chosen = [boundaries[round(number)] for number in np.linspace(0, len(boundaries) - 1, min(PLANS, len(boundaries)))]
    plans: dict[str, Any] = {}
    for place in chosen:
        stages = [
            (operations[index].name, int(number >= place)) for number, block in enumerate(order) for index in block
        ]
        plans[str(place)] = piped(build, examples, pins=dict(stages), auto_partition=False)
    plans["automatic"] = piped(build, examples, memory_weight=0.0, profile=True)
    shapes = [tuple(tensor.shape[1:]) for tensor in (traced.inputs[0], traced.outputs[0])]
    x, y = (
        np.random.default_rng(0).normal(size=(examples * MICROBATCHES, *shape)).astype("float32") for shape in shapes
    )
    best = dict.fromkeys(plans, float("inf"))
    for _ in range(TURNS):
        for name, model in plans.items():
            model.train_on(x, y)
            for _ in range(3):
                world.transport().barrier()
                began = time.perf_counter()
                model.train_on(x, y)
                world.transport().barrier()
                best[name] = min(best[name], time.perf_counter() - began)
    automatic = best.pop("automatic")
    return {"automatic": automatic, "steps": {**best, "automatic": automatic}}


def piped(build: Any, examples: int, **options: Any) -> Any:
    keras.utils.clear_session()  # So that layers have the same names in every plan.
    keras.utils.set_random_seed(0)
    model = clary_parallel.pipeline(build, 2, MICROBATCHES, microbatch_size=examples, **options)
    model.compile("sgd", "mse")
    return model


world.init()
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[world.rank() % len(cores)]})
tf.config.threading.set_intra_op_parallelism_threads(1)
for name in sys.argv[1:]:
    result = measure(name)
    if world.rank() == 0:
        print(json.dumps({"case": name, **result}), flush=True)
