"""Trains an smp.DistributedModel with Adam under a limit of memory for each process; reports losses and what it took.

Usage: smp_memory.py PARAMETERS subclassed|functional MEBIBYTES [FOLDER], 0 for no limit. With a folder it saves there,
restores and goes on.

The model's weights are 128 MiB; training with Adam takes them four times (weights, gradients, two moments). The limit
is on the data of this process (RLIMIT_DATA), so much above what TensorFlow itself takes.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import smdistributed.modelparallel.tensorflow as smp

smp.init(json.loads(sys.argv[1]))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from rank_report import report  # noqa: E402

WIDTH, LAYERS = 2048, 8
L = keras.layers


class Wide(smp.DistributedModel):
    """Built when it is parted."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = [L.Dense(WIDTH, activation="tanh") for _ in range(LAYERS)]
        self.head = L.Dense(4)

    def call(self, x: Any) -> Any:
        for layer in self.wide:
            x = layer(x)
        return self.head(x)


def functional() -> Any:
    """The same, built layer by layer."""
    x = inputs = keras.Input((WIDTH,))
    for _ in range(LAYERS):
        x = L.Dense(WIDTH, activation="tanh")(x)
    return smp.DistributedModel(inputs, L.Dense(4)(x))


def status(name: str) -> int:
    """A line of the kernel's of this process, in bytes."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) << 10


PHASES: dict[str, Any] = {}


def note(phase: str) -> None:
    PHASES[phase] = {name: status(name) - before for name, before in START.items()}


small = keras.Sequential([keras.Input((4,)), L.Dense(4)])
small.compile("adam", "mse")
small.train_on_batch(np.ones((4, 4)), np.ones((4, 4)))  # Threads, kernels, a compiler: what TensorFlow takes anyhow.
START = {name: status(name) for name in ("VmData", "VmRSS", "VmHWM")}
if int(sys.argv[3]):
    limit = START["VmData"] + (int(sys.argv[3]) << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

keras.utils.set_random_seed(0)
model, optimizer = {"subclassed": Wide, "functional": functional}[sys.argv[2]](), keras.optimizers.Adam(1e-4)
note("made")
x = np.random.default_rng(0).normal(size=(32, WIDTH)).astype("float32")


@smp.step
def get_gradients(x: Any) -> Any:
    loss = tf.reduce_mean((model(x) - x[:, :4]) ** 2)
    return optimizer.get_gradients(loss, model.trainable_variables), loss


@tf.function
def train_step(x: Any) -> Any:
    gradients, loss = get_gradients(x)
    pairs = zip([item.accumulate() for item in gradients], model.trainable_variables, strict=True)
    optimizer.apply_gradients(pairs)
    return loss.reduce_mean()


smp.register_post_partition_hook(lambda: note("parted"))
losses = []
for number in range(2):
    losses.append(float(train_step(x)))
    note(f"step {number}")
if len(sys.argv) > 4:
    folder = Path(sys.argv[4])
    manager = smp.CheckpointManager(tf.train.Checkpoint(model=model, optimizer=optimizer), folder / "checkpoints")
    manager.save()
    note("checkpoint")
    losses.append(float(train_step(x)))
    model.save_weights(folder / "whole.weights.h5")
    note("weights")
    model.save_model(str(folder / "saved"))
    note("saved model")
    manager.restore()
    note("restored")
    losses.append(float(train_step(x)))
weights, whole = (
    sum(int(np.prod(item.shape)) * 4 for item in items) for items in (model.variables, model.whole_variables())
)
report({"losses": losses, "weights": weights, "whole": whole, "phases": PHASES})
