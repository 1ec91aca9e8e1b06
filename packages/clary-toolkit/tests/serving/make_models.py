"""Run in a TensorFlow environment: writes models to serve, and what Keras itself answers to the same inputs.

Usage: make_models.py FOLDER. The SavedModels are FOLDER/zoo/model/<name>/<version>, to be served together; a Keras file
is FOLDER/<name>/model/..., alone. FOLDER/<name>.json has a request in column format and the outputs by name.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

ROOT = Path(sys.argv[1])
keras = tf.keras


def write(name, save, inputs, outputs, request=None):
    folder = ROOT / name / "model" if "." in name else ROOT / "zoo" / "model" / name
    folder.mkdir(parents=True)
    save(str(folder))
    plain = {key: np.asarray(value).tolist() for key, value in outputs.items()}
    columns = {key: np.asarray(value).tolist() for key, value in inputs.items()}
    case = {"request": request or {"inputs": columns}, "outputs": plain, "version": tf.__version__}
    (ROOT / (name + ".json")).write_text(json.dumps(case))


def export(model, path):
    if hasattr(model, "export"):
        model.export(path)
    else:
        tf.saved_model.save(model, path)


rng = np.random.RandomState(3)


def dense():
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, keras.layers.Dense(3, name="y")(keras.layers.Dense(8, activation="relu")(inputs)))


x = rng.rand(5, 4).astype(np.float32)
net = dense()
write("dense", lambda folder: export(net, folder + "/1"), {"x": x}, {"y": net(x)})
for suffix in (".keras", ".h5"):
    write("dense" + suffix, lambda folder, suffix=suffix: net.save(folder + "/net" + suffix), {"x": x}, {"y": net(x)})

image = keras.Input((12, 12, 3), name="image")
layer = keras.layers.Conv2D(4, 3, activation="relu")(image)
layer = keras.layers.BatchNormalization()(layer)
layer = keras.layers.GlobalAveragePooling2D()(layer)
convolution = keras.Model(image, keras.layers.Dense(10, activation="softmax")(layer))
images = rng.rand(3, 12, 12, 3).astype(np.float32)
write(
    "convolution",
    lambda folder: export(convolution, folder + "/7"),
    {"image": images},
    {"y": convolution(images, training=False)},
)


class Several(tf.Module):
    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(rng.rand(3, 2).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "a"), tf.TensorSpec([None], tf.int64, "b")])
    def __call__(self, a, b):
        return {"product": a @ self.weight, "double": b * 2, "positive": b > 0}


several = Several()
a, b = rng.rand(2, 3).astype(np.float32), np.array([-5, 7], np.int64)
write(
    "several",
    lambda folder: tf.saved_model.save(several, folder + "/1", signatures=several.__call__),
    {"a": a, "b": b},
    several(tf.constant(a), tf.constant(b)),
)


class Words(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def __call__(self, text):
        return {"upper": tf.strings.upper(text), "length": tf.strings.length(text)}


write(
    "words",
    lambda folder: tf.saved_model.save(Words(), folder + "/1", signatures=Words().__call__),
    {},
    {"upper": ["ONE", "TWO WORDS"], "length": [3, 9]},
    {"inputs": ["one", {"b64": "dHdvIHdvcmRz"}]},
)
