"""The same in SageMaker's way: a step function, and a model that is parted over as many processes as there are.

python train_smp.py                    one partition: runs out of memory
mpirun -n 2 python train_smp.py        two partitions, one in each process
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import smdistributed.modelparallel.tensorflow as smp

# As a training job says it in the SDK's distribution={"smdistributed": {"modelparallel": {"parameters": ...}}}.
smp.init({"partitions": int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")), "microbatches": 4})

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from limited import limit_memory  # noqa: E402

WIDTH, LAYERS = 2048, 12


class Wide(smp.DistributedModel):
    """192 MiB of weights; training with Adam holds them four times: weights, gradients, two moments."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [keras.layers.Dense(WIDTH, activation="relu") for _ in range(LAYERS)]
        self.head = keras.layers.Dense(10)

    def call(self, x: Any) -> Any:
        """The forward pass, which is cut into the partitions."""
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


def main() -> None:
    """Train for two epochs on made-up data, save, and say what came of it."""
    parser = argparse.ArgumentParser(description="Train a model that may be larger than one process's memory.")
    parser.add_argument("--limit", type=int, default=600, help="MiB that a process may take (default: 600)")
    options = parser.parse_args()
    limit_memory(options.limit)
    keras.utils.set_random_seed(0)
    model, optimizer = Wide(), keras.optimizers.Adam()
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @smp.step
    def get_gradients(x: Any, classes: Any) -> Any:
        loss = loss_of(classes, model(x, training=True))
        return optimizer.get_gradients(loss, model.trainable_variables), loss

    @tf.function
    def train_step(x: Any, classes: Any) -> Any:
        gradients, loss = get_gradients(x, classes)
        means = [gradient.accumulate() for gradient in gradients]
        optimizer.apply_gradients(zip(means, model.trainable_variables, strict=True))
        return loss.reduce_mean()

    random = np.random.default_rng(0)
    x, classes = random.normal(size=(128, WIDTH)).astype("float32"), random.integers(0, 10, 128)
    batches = tf.data.Dataset.from_tensor_slices((x, classes)).batch(64, drop_remainder=True)
    for epoch in range(2):
        loss = np.mean([train_step(*batch) for batch in batches])
        if smp.rank() == 0:
            print(f"Epoch {epoch + 1}: loss {loss:.4f}", flush=True)
    manager = smp.CheckpointManager(tf.train.Checkpoint(model=model, optimizer=optimizer), "checkpoints")
    path = manager.save()
    model.save_model("model")
    if smp.rank() == 0:
        print(f"Trained and saved: model is the whole model as a SavedModel, {path} with the optimizer's state.")


main()
