"""TensorFlow itself, in environments built as jobs get them: old, middle and newest, each trains a Keras model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from clary.images.build import BuiltImage

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(1500)]

_TRAIN = """
import os, sys, tempfile
import numpy as np
import tensorflow as tf
import boto3, cv2, h5py, matplotlib, pandas, PIL.Image, requests, scipy.stats, sklearn.linear_model, tensorboard.summary

images = np.random.RandomState(0).rand(256, 8, 8, 1).astype("float32")
labels = (images[:, :4].mean(axis=(1, 2, 3)) > images[:, 4:].mean(axis=(1, 2, 3))).astype("int64")
layers = tf.keras.layers
model = tf.keras.Sequential()
model.add(layers.Flatten(input_shape=(8, 8, 1)))
model.add(layers.Dense(16, activation="relu"))
model.add(layers.Dense(2, activation="softmax"))
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
losses = model.fit(images, labels, epochs=5, verbose=0).history["loss"]
assert losses[-1] < losses[0], losses
path = os.path.join(tempfile.mkdtemp(), "model.h5")
model.save(path)
again = tf.keras.models.load_model(path)
assert np.allclose(model.predict(images[:8]), again.predict(images[:8]), atol=1e-5)
keras = getattr(tf.keras, "__version__", None) or getattr(tf.keras, "version", lambda: None)()
if not keras:
    import importlib
    name = "tf_keras" if os.environ.get("TF_USE_LEGACY_KERAS") else "keras"
    keras = importlib.import_module(name).__version__
print("TRAINED", tf.__version__, keras, "%d.%d" % sys.version_info[:2])
"""


def _train(built: BuiltImage, **environment: str) -> list[str]:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    answer = subprocess.run(
        [built.python, "-W", "ignore", "-c", _TRAIN],
        capture_output=True,
        text=True,
        check=False,
        env={**built.environment, **quiet, **environment},
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer.stdout.strip().splitlines()[-1].split()[1:]


def test_tensorflow_1_14_trains_on_python_3_7(framework: Callable[[str], BuiltImage]):
    version, _, python = _train(framework("tensorflow-training:1.14-gpu-py2"))
    assert (version, python) == ("1.14.0", "3.7")


def test_tensorflow_2_15_trains_on_python_3_11(framework: Callable[[str], BuiltImage]):
    version, keras, python = _train(framework("tensorflow-training:2.15-cpu-py311"))
    assert (version, python) == ("2.15.1", "3.11")
    assert keras.startswith("2.15")


def test_the_newest_tensorflow_trains_with_keras_3_and_with_keras_2(framework: Callable[[str], BuiltImage]):
    built = framework("tensorflow-training:2.21-cpu-py312")
    version, keras, python = _train(built)
    assert (version, python, keras[:2]) == ("2.21.0", "3.12", "3.")
    assert _train(built, TF_USE_LEGACY_KERAS="1")[1].startswith("2.21")


def test_scripts_can_import_tensorflow_io(framework: Callable[[str], BuiltImage]):
    built = framework("tensorflow-training:2.19-cpu-py312")
    program = (
        "import tensorflow as tf, tensorflow_io as tfio\n"
        "turned = tfio.experimental.color.rgb_to_bgr(tf.constant([[[[1.0, 2.0, 3.0]]]]))\n"
        "print(tfio.__version__, turned.numpy().tolist())"
    )
    answer = subprocess.run(
        [built.python, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**built.environment, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
    )
    assert answer.stdout.split(maxsplit=1) == ["0.37.1", "[[[[3.0, 2.0, 1.0]]]]\n"]


def test_pip_knows_that_tensorflow_is_there(framework: Callable[[str], BuiltImage]):
    built = framework("tensorflow-training:2.21-cpu-py312")
    command = [built.python, "-m", "pip", "install", "--dry-run", "--no-deps", "tensorflow==2.21.0", "tensorflow-cpu"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.count("Requirement already satisfied") == 2
