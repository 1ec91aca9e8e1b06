"""Trains by stock TensorFlow in one process, or on ranks whose gradients TensorFlow's collectives sum.

Usage: device_collectives.py stock|parallel
"""

import sys

import tensorflow as tf
from rank_report import report

import clary_parallel
from clary_parallel.data import gradients, world
from clary_parallel.errors import ParallelError
from clary_parallel.surfaces import horovod

PARALLEL = sys.argv[1] == "parallel"
clary_parallel.init()  # Before `equality` makes tensors.

import equality  # noqa: E402
import keras  # noqa: E402


def loop(compression=clary_parallel.Compression.none):
    """A loop of one's own, with a tape inside tf.function and buckets so small that there are many."""
    keras.utils.set_random_seed(5)
    model, images = equality.convolution()
    optimizer = keras.optimizers.Adam(0.01, epsilon=1e-3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    reducer = gradients.GradientReducer(compression, bucket_bytes=400)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        if PARALLEL:
            tape = clary_parallel.DistributedGradientTape(tape, reducer)
        optimizer.apply_gradients(
            zip(tape.gradient(value, model.trainable_variables), model.trainable_variables, strict=True)
        )

    data = tf.data.Dataset.from_tensor_slices((images, equality.labels)).take(48).batch(16)
    for x, y in data.map(lambda x, y: (x[world.rank() :: world.size()], y[world.rank() :: world.size()])):
        step(x, y)
    return [weight.tolist() for weight in model.get_weights()]


def unequal():
    """Rank 1 has two batches, rank 0 has three, and joins in the end; returns the three sums' first elements."""
    sums = []
    reducer = gradients.GradientReducer(average=False)
    for number in range(3 - world.rank()):
        (total,) = reducer.reduce([tf.fill([5], float(number + 1))])
        sums.append(float(total[0]))
    horovod.join()
    return sums


def refused_gradient():
    """What is said of a gradient of rank 1 that is not finite."""
    reducer = gradients.GradientReducer(check_finite=True)
    try:
        reducer.reduce([tf.constant([1.0, float("nan") if world.rank() == 1 else 1.0])], ["the kernel"])
    except (ParallelError, tf.errors.OpError) as error:
        return str(error)
    return "nothing"


def main():
    results = {
        "dense": equality.train(equality.dense, "adam", PARALLEL)["weights"],
        "convolution": equality.train(equality.convolution, "adam", PARALLEL)["weights"],
        "loop": loop(),
        "half": loop(clary_parallel.Compression.bf16),
    }
    if PARALLEL:
        devices = world.collectives()
        results |= {"hint": devices and devices.hint, "unequal": unequal(), "refused": refused_gradient()}
    report(results)


if __name__ == "__main__":
    main()
