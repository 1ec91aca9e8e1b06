"""A custom loop under MultiWorkerMirroredStrategy with Keras 3: hosts see different data and end with equal weights."""

import json
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import keras
import numpy as np
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
with strategy.scope():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.05)
    optimizer.build(model.trainable_variables)

x = np.random.default_rng(rank).normal(size=(64, 4)).astype("float32")
y = x.sum(axis=1, keepdims=True)


@tf.function
def step():
    def replica(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        gradients = tf.distribute.get_replica_context().all_reduce("mean", gradients)
        for variable, gradient in zip(model.trainable_variables, gradients):
            variable.value.assign_sub(0.05 * gradient)
        return loss

    return strategy.reduce("mean", strategy.run(replica, (tf.constant(x), tf.constant(y))), axis=None)


losses = [float(step()) for _ in range(30)]
print("replicas", strategy.num_replicas_in_sync)
print("rank %d loss fell %s" % (rank, losses[-1] < losses[0] / 2))
print("rank %d weights %.5f" % (rank, sum(float(np.abs(w).sum()) for w in model.get_weights())))
if rank == 0:
    model.save(os.path.join(os.environ["SM_MODEL_DIR"], "model.keras"))
