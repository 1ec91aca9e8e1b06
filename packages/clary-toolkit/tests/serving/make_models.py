"""Run in a TensorFlow environment: writes models to serve, and what Keras itself answers to the same inputs.

Usage: make_models.py FOLDER [--images]. The SavedModels are FOLDER/zoo/model/<name>/<version>, to be served together; a
Keras file is FOLDER/<name>/model/..., alone. FOLDER/<name>.json has a request in column format and the outputs by name.
With --images also FOLDER/images/<mobilenet|resnet>/model/1, each to be served alone: MobileNetV2 and ResNet50 of random
weights.
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


tokens = keras.Input((6,), name="tokens", dtype="int32")
words = keras.layers.Embedding(50, 8)(tokens)
reader = keras.Model(tokens, keras.layers.Dense(2, name="y")(keras.layers.LSTM(5)(words)))
sentences = rng.randint(0, 50, (2, 6)).astype(np.int32)
write(
    "reader",
    lambda folder: export(reader, folder + "/1"),
    {"tokens": sentences},
    {"y": reader(sentences, training=False)},
)


class Exotic(tf.Module):
    """What OpenVINO computes otherwise, or not at all, without saying so."""

    def __init__(self):
        super().__init__()
        self.calls = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def counts(self, x):
        self.calls.assign_add(1.0)
        return {"y": x * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "x")])
    def hashes(self, x):
        return {"y": (x * 2654435761) % 97}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def random(self, x):
        return {"y": x + tf.random.uniform(tf.shape(x))}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def checks(self, x):
        with tf.control_dependencies([tf.debugging.assert_less(x, 100.0)]):
            return {"y": tf.identity(x) + 1.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64, "x")])
    def doubles(self, x):
        return {"y": x + 1e-12}


exotic = Exotic()
kinds = ("counts", "hashes", "random", "checks", "doubles")
write(
    "exotic",
    lambda folder: tf.saved_model.save(
        exotic,
        folder + "/1",
        signatures={kind: getattr(exotic, kind) for kind in kinds} | {"serving_default": exotic.counts},
    ),
    {"x": np.ones(2, np.float32)},
    {"y": [2.0, 2.0]},
)


class Judge(tf.Module):
    """Classifies and regresses tf.Examples, as Estimators do."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
    def values(self, serialized):
        parsed = tf.io.parse_example(serialized, {"age": tf.io.FixedLenFeature([], tf.float32)})
        return parsed["age"]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify(self, inputs):
        ages = self.values(inputs)
        scores = tf.stack([ages / 100.0, 1.0 - ages / 100.0], axis=1)
        return {"classes": tf.tile([["old", "young"]], [tf.shape(ages)[0], 1]), "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(self, inputs):
        return {"outputs": self.values(inputs) * 2.0}


def save_judge(folder):
    from tensorflow.core.protobuf import saved_model_pb2

    judge = Judge()
    tf.saved_model.save(judge, folder + "/1", signatures={"serving_default": judge.classify, "doubled": judge.regress})
    path = Path(folder, "1", "saved_model.pb")
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(path.read_bytes())
    definitions = saved.meta_graphs[0].signature_def  # TensorFlow 2 writes "predict" for every signature
    definitions["serving_default"].method_name = "tensorflow/serving/classify"
    definitions["doubled"].method_name = "tensorflow/serving/regress"
    path.write_bytes(saved.SerializeToString())


write("judge", save_judge, {}, {}, {"examples": [{"age": 30.0}]})

if "--images" in sys.argv:
    # For measurements: the benchmarks' networks, of random weights (a download would be needed for others).
    for name, network in (("mobilenet", keras.applications.MobileNetV2), ("resnet", keras.applications.ResNet50)):
        export(network(weights=None), str(ROOT / "images" / name / "model" / "1"))
