"""A Keras script that shows what it was given."""

import argparse
import os

import keras
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--note")
parser.add_argument("--learning-rate", type=float)
arguments, _ = parser.parse_known_args()
print("note is %r, colour is %s" % (arguments.note, os.environ.get("COLOUR")))

with np.load(os.path.join(os.environ["SM_CHANNEL_TRAIN"], "data.npz")) as data:
    x, y = data["x"], data["y"]

keras.utils.set_random_seed(1)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(arguments.learning_rate), loss, metrics=["accuracy"])
for epoch in range(arguments.epochs):
    history = model.fit(x, y, verbose=0)
    print("epoch %d loss=%.4f" % (epoch, history.history["loss"][0]), flush=True)
print("accuracy=%.4f" % model.evaluate(x, y, verbose=0)[1], flush=True)
model.save(os.path.join(os.environ["SM_MODEL_DIR"], "model.keras"))
