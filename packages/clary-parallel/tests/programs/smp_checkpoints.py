"""Training that checkpoints cut, under any number of partitions; restoring reports how far it comes out elsewhere.

Usage: smp_checkpoints.py write|restore PARTITIONS FOLDER

Writing: some steps, then a checkpoint, then further steps; and files of weights.
Restoring: the further steps once more, from what was written, in models that begin otherwise and are parted anew.
"""

import sys
from pathlib import Path
from typing import Any

import smdistributed.modelparallel.tensorflow as smp

partitions, folder = int(sys.argv[2]), Path(sys.argv[3])
smp.init({"partitions": partitions, "microbatches": 4})

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from rank_report import report  # noqa: E402
from smp_cases import images, labels, train_step_of  # noqa: E402

L = keras.layers
BEFORE, AFTER = 2, 2


class Subclassed(smp.DistributedModel):
    """Has running means, too, which no gradient changes."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.norm = L.Flatten(), L.BatchNormalization()
        self.hidden = [L.Dense(width, "tanh") for width in (12, 10, 8)]
        self.head = L.Dense(3)

    def call(self, x: Any, training: Any = None) -> Any:
        x = self.norm(self.flatten(x), training=training)
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


def functional() -> Any:
    inputs = x = keras.Input((8, 8, 1))
    x = L.Flatten()(x)
    for width in (12, 10, 8):
        x = L.Dense(width, "tanh")(x)
    return smp.DistributedModel(inputs, L.Dense(3)(x))


def rate() -> Any:
    """So that the number of steps counts. Without a name, as scripts for Keras 2 may have it."""
    return keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.7, name=None)


MODELS = {"subclassed": Subclassed, "functional": functional}
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(rate(), epsilon=1e-3),
    "adafactor": lambda: keras.optimizers.Adafactor(rate()),
}


class Training:
    """A model in training with all that a checkpoint holds."""

    def __init__(self, make: Any, optimizer: Any, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self.model, self.optimizer, self.epoch = make(), optimizer, tf.Variable(0)
        self.step = train_step_of(self.model, optimizer)

    def manager(self, name: str) -> Any:
        objects = {"model": self.model, "optimizer": self.optimizer, "epoch": self.epoch}
        return smp.CheckpointManager(tf.train.Checkpoint(**objects), folder / name)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step(images, labels)


def parted(make: Any, seed: int, file: Path | None = None) -> list[Any]:
    """The weights of a model that is parted and does not train, with those of a file if there is one."""
    keras.utils.set_random_seed(seed)
    model = make()
    if file is not None:
        model.load_weights(file)
    smp.step(lambda x: model(x, training=False))(images)
    if file is None:
        model.save_weights(folder / f"{make.__name__}.weights.h5")
    return model.get_weights()


def write() -> dict[str, Any]:
    for name, make in OPTIMIZERS.items():
        training = Training(Subclassed, make(), 7)
        training.run(BEFORE)
        training.epoch.assign(5)
        training.manager(name).save()
        training.run(AFTER)
        np.savez(folder / f"{name}-{smp.rank()}.npz", *training.model.get_weights())
    for name, make in MODELS.items():
        np.savez(folder / f"{name}-{smp.rank()}.npz", *parted(make, 7))
    return {}


def apart(ours: list[Any], name: str) -> float:
    expected = np.load(folder / f"{name}-0.npz")
    pairs = zip(ours, [expected[key] for key in expected.files], strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def restore() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, make in OPTIMIZERS.items():
        training = Training(Subclassed, make(), 8)
        manager = training.manager(name)
        if name == "adafactor":
            training.run(2)  # A model and an optimizer that are parted and built already; the others are not.
        manager.restore()
        training.run(AFTER)
        ours = training.model.get_weights()
        held = len(training.model.variables)
        found[name] = {"apart": apart(ours, name), "held": held, "all": len(ours), "epoch": int(training.epoch)}
    for name, make in MODELS.items():
        found[name] = {"apart": apart(parted(make, 8, folder / f"{make.__name__}.weights.h5"), name)}
    return found


report({"write": write, "restore": restore}[sys.argv[1]]())
