"""Makes the benchmark's models as SavedModels: MODELS FOLDER NAME… — weights are random, nothing is downloaded.

Beside each model: sample.npy (a batch of one), and expected.npy (what TensorFlow answers to it).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def dense() -> tf.keras.Model:
    """A small network: 32 numbers to 10 probabilities."""
    layers = [tf.keras.layers.Dense(64, activation="relu"), tf.keras.layers.Dense(64, activation="relu")]
    return tf.keras.Sequential([tf.keras.Input((32,)), *layers, tf.keras.layers.Dense(10, activation="softmax")])


MAKERS = {
    "dense": dense,
    "mobilenet_v2": lambda: tf.keras.applications.MobileNetV2(weights=None, classifier_activation=None),
    "resnet50": lambda: tf.keras.applications.ResNet50(weights=None, classifier_activation=None),
}


def settle(model: tf.keras.Model) -> None:
    """Set the statistics of batch normalisation from random images.

    Those of a new network let its values fade to nothing, layer by layer; a difference in the answers would not show.
    """
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(np.random.default_rng(8).random((4, *model.input_shape[1:]), np.float32), training=True)


def make(name: str, folder: Path) -> None:
    tf.keras.utils.set_random_seed(7)
    model = MAKERS[name]()
    sample = np.random.default_rng(7).random((1, *model.input_shape[1:]), np.float32)
    settle(model)
    model.export(str(folder / "1"), verbose=False)
    loaded = tf.saved_model.load(str(folder / "1"))
    (answer,) = loaded.signatures["serving_default"](tf.constant(sample)).values()
    np.save(folder / "sample.npy", sample)
    np.save(folder / "expected.npy", answer.numpy())


if __name__ == "__main__":
    for each in sys.argv[2:]:
        make(each, Path(sys.argv[1]) / each)
