"""A Keras script as Horovod's users write them: the image has no Horovod of its own."""

import argparse
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import horovod.tensorflow.keras as hvd
import keras
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
arguments, _ = parser.parse_known_args()

hvd.init()
generator = np.random.default_rng(0)
x = generator.normal(size=(256, 4)).astype("float32")
y = x.sum(axis=1, keepdims=True)
mine = slice(hvd.rank(), None, hvd.size())

keras.utils.set_random_seed(hvd.rank())
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)])
optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.05 * hvd.size()))
model.compile(optimizer=optimizer, loss="mse")
history = model.fit(
    x[mine],
    y[mine],
    batch_size=16,
    epochs=arguments.epochs,
    verbose=0,
    callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0), hvd.callbacks.MetricAverageCallback()],
)
weights = sum(float(np.abs(part).sum()) for part in model.get_weights())
print("rank %d of %d weights %.5f loss %.5f" % (hvd.rank(), hvd.size(), weights, history.history["loss"][-1]))
if hvd.rank() == 0:
    model.export(os.path.join(os.environ["SM_MODEL_DIR"], "1"))
