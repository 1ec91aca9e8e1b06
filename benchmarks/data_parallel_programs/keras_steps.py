"""Times steps of a Keras fit: `keras_steps.py NAME resnet18|transformer stock|parallel|horovod|mirrored STEPS`."""

import contextlib
import json
import os
import sys
import time

name, which, how, steps = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("BENCHMARK_RANK", "0")))

from timing import pin, write  # noqa: E402

pin(rank)

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers  # noqa: E402


def resnet18(batch):
    def block(x, width, stride):
        short = x
        x = layers.Conv2D(width, 3, stride, "same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.BatchNormalization()(layers.Conv2D(width, 3, 1, "same", use_bias=False)(x))
        if stride > 1 or short.shape[-1] != width:
            short = layers.BatchNormalization()(layers.Conv2D(width, 1, stride, use_bias=False)(short))
        return layers.ReLU()(x + short)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(64, 3, 1, "same", use_bias=False)(inputs)))
    for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        x = block(x, width, stride)
    model = keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    return model, np.random.default_rng(0).normal(size=(batch, 32, 32, 3)).astype("float32")


def transformer(batch):
    inputs = keras.Input((128,), dtype="int32")
    x = layers.Embedding(5000, 256)(inputs)
    for _ in range(4):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 64)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(256)(layers.Dense(1024, "relu")(x)))
    model = keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))
    return model, np.random.default_rng(0).integers(0, 5000, size=(batch, 128))


class Clock(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.times = []

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter() - self.began)


# The batch of each process is the same as alone: twice the processes, twice the samples a step.
batch = 16
scope = contextlib.nullcontext()
if how == "mirrored":
    workers = ["127.0.0.1:29517", "127.0.0.1:29518"]
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})
    scope = tf.distribute.MultiWorkerMirroredStrategy().scope()
    batch *= len(workers)  # It shares each batch among the workers itself.
keras.utils.set_random_seed(1)
with scope:
    model, inputs = {"resnet18": resnet18, "transformer": transformer}[which](batch)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    if how == "parallel":
        import clary_parallel

        model = clary_parallel.data_parallel(model, shard=False)
    if how == "horovod":
        import horovod.tensorflow.keras as hvd

        hvd.init()
        optimizer = hvd.DistributedOptimizer(optimizer)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
labels = np.arange(batch) % 10
data = tf.data.Dataset.from_tensors((inputs, labels)).repeat()
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
data = data.with_options(options)
clock = Clock()
model.fit(data, epochs=1, steps_per_epoch=steps, verbose=0, callbacks=[clock])
write(name, rank, clock.times)
