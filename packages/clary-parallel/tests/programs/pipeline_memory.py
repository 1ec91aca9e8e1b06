"""Trains a model under a limit of memory: `alone` in one process, or `divided` over the ranks. Reports the losses.

`let_go`: over ranks without a limit, from a model that is there already; reports which share of its weights it freed.

The limit is on the data of this process (RLIMIT_DATA), so much above what TensorFlow itself takes as BUDGET says. The
model's weights are 320 MiB; training with Adam takes them four times (weights, gradients, two slots).
"""

import resource
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rank_report import report

import clary_parallel
from clary_parallel.data import world
from clary_parallel.pipelining.held import is_absent

BUDGET = 1000 << 20
WIDTH, LAYERS = 2048, 12


def build() -> Any:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(WIDTH, activation="tanh") for _ in range(LAYERS)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(4)])


def data_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmData:")[1].split()[0]) << 10


def resident_bytes() -> int:
    """What this process has in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def let_go() -> dict[str, Any]:
    """A model that is there whole on each rank, of which each keeps its own stages'."""
    model = build()
    weights = sum(4 * int(np.prod(weight.shape)) for weight in model.weights)
    before = resident_bytes()
    piped = clary_parallel.pipeline(model, partitions=2, microbatches=4, hold="own")
    freed = (before - resident_bytes()) / weights
    first = [float(np.abs(weight).sum()) for weight in piped.get_weights()]
    piped.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(16, WIDTH)).astype("float32")
    loss = piped.fit(x, x[:, :4], batch_size=16, epochs=2, shuffle=False, verbose=0).history["loss"]
    last = [float(np.abs(weight).sum()) for weight in piped.get_weights()]
    held = sum(not is_absent(weight) for weight in model.weights) / len(model.weights)
    return {"freed": freed, "held": held, "loss": loss, "moved": sum(a != b for a, b in zip(first, last, strict=True))}


world.init()
if sys.argv[1] == "let_go":
    report(let_go(), world.rank())
    sys.exit()
small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
small.compile("adam", "mse")
small.train_on_batch(np.ones((4, 4)), np.ones((4, 4)))  # Threads, kernels, a compiler: what TensorFlow takes anyhow.
limit = data_bytes() + BUDGET
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

model = build() if sys.argv[1] == "alone" else clary_parallel.pipeline(build, partitions=2, microbatches=4)
model.compile("adam", "mse")
x = np.random.default_rng(0).normal(size=(64, WIDTH)).astype("float32")
history = model.fit(x, x[:, :4], batch_size=32, epochs=2, shuffle=False, verbose=0).history
report({"loss": history["loss"], "used": data_bytes() - limit + BUDGET}, world.rank())
