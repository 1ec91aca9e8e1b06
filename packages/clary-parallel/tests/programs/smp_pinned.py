"""Manual partitions, on four ranks in two replicas with Horovod; reports what went wrong, by name."""

import os

import smdistributed.modelparallel.tensorflow as smp

smp.init()

import horovod.tensorflow as hvd  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from smp_cases import (  # noqa: E402
    case,
    images,
    in_one_process,
    labels,
    loss_object,
    losses_of_layers_train_as_in_one_process,
    run_cases,
    same,
)

assert "SM_HP_MP_PARAMETERS" in os.environ


class Pinned(smp.DistributedModel):
    def __init__(self):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.first = keras.layers.Dense(32, "tanh")
        self.second = keras.layers.Dense(4, "tanh")
        self.last = keras.layers.Dense(3)

    def call(self, x):
        with smp.partition(1):
            with smp.partition(0):
                x = self.second(self.first(self.flatten(x)))
            return self.last(x)


@case
def groups_are_spread():
    rank = smp.rank()
    assert smp.get_mp_group() == [rank % 2, rank % 2 + 2]
    assert (smp.mp_rank(), smp.dp_rank(), smp.dp_size()) == (rank // 2, rank % 2, 2)
    assert (hvd.rank(), hvd.size()) == (smp.dp_rank(), 2)


@case
def pins_hold_and_replicas_train_as_one_process_with_both_halves():
    keras.utils.set_random_seed(7)
    model = Pinned()
    keras.utils.set_random_seed(7)
    plain = keras.Sequential(
        [
            keras.layers.Flatten(),
            keras.layers.Dense(32, "tanh"),
            keras.layers.Dense(4, "tanh"),
            keras.layers.Dense(3),
        ]
    )
    plain.build((None, 8, 8, 1))
    optimizer = keras.optimizers.SGD(0.3)

    @smp.step
    def get_gradients(x, y):
        loss = loss_object(y, model(x))
        return optimizer.get_gradients(loss, model.trainable_variables), loss

    @tf.function
    def train_step(x, y, first_batch):
        gradients, loss = get_gradients(x, y)
        gradients = [hvd.allreduce(gradient.accumulate()) for gradient in gradients]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        if first_batch:
            hvd.broadcast_variables(model.variables, root_rank=0)
            hvd.broadcast_variables(optimizer.variables(), root_rank=0)
        return loss.reduce_mean()

    half = slice(8 * smp.dp_rank(), 8 * smp.dp_rank() + 8)
    for number in range(3):
        train_step(images[half], labels[half], tf.constant(number == 0))
    names = [variable.path for variable in model.trainable_variables]
    assert len(names) == (4 if smp.mp_rank() == 0 else 2), names
    in_one_process(plain, keras.optimizers.SGD(0.3), 3)
    same(model.get_weights(), plain.get_weights())


@case
def losses_of_layers_count_over_all_partitions():
    losses_of_layers_train_as_in_one_process()


@case
def weights_are_bitwise_equal_on_all_replicas():
    model = Pinned()
    step = smp.step(lambda x: model(x))
    step(images)
    hvd.broadcast_variables(model.variables, root_rank=0)
    sums = smp.allgather([float(np.sum(item)) for item in model.get_weights()])
    assert sums[0] == sums[1] == sums[2] == sums[3]


run_cases()
