"""What goes wrong over two ranks of smp: the argument says what. The job ends it.

Usage: smp_faults.py never_steps|hangs_in_its_partition
"""

import sys
import time
from typing import Any

import smdistributed.modelparallel.tensorflow as smp

smp.init({"partitions": 2, "microbatches": 2})

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402


def hang() -> None:
    """For ever."""
    while True:
        time.sleep(3600)


def stand_still(switch: Any) -> Any:
    if switch:
        hang()
    return np.float32(0)


class Hanging(keras.layers.Layer):
    """Waits for ever once its switch is on."""

    def __init__(self) -> None:
        super().__init__()
        self.switch = tf.Variable(False)

    def call(self, x: Any) -> Any:
        hung = tf.numpy_function(stand_still, [self.switch], tf.float32)
        return x + tf.reshape(hung, ())


class Net(smp.DistributedModel):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = keras.layers.Dense(8, "tanh"), keras.layers.Dense(8)
        self.hanging = Hanging()

    def call(self, x: Any) -> Any:
        return self.hanging(self.last(self.first(x)))


model, optimizer = Net(), keras.optimizers.SGD(0.1)


@smp.step
def get_gradients(x: Any) -> Any:
    loss = tf.reduce_mean(model(x) ** 2)
    return optimizer.get_gradients(loss, model.trainable_variables), loss


@tf.function
def train_step(x: Any) -> Any:
    gradients, loss = get_gradients(x)
    pairs = zip([item.accumulate() for item in gradients], model.trainable_variables, strict=True)
    optimizer.apply_gradients(pairs)
    return loss.reduce_mean()


x, late = np.ones((4, 6), "float32"), smp.rank() == 1
if sys.argv[1] == "never_steps" and late:
    hang()
train_step(x)
model.hanging.switch.assign(late)
while True:
    train_step(x)
