"""Builds images, trains a model in each and writes down what happened. A maintainer's command, never run by users.

The result, `trials.json`, is what the table of docs/reference/images.md is made from.

    python -m clary.images.trial tensorflow-training:2.19-cpu-py312 …
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from clary.images.build import BuiltImage, ensure
from clary.images.catalog import FrameworkImage, resolve
from clary.images.errors import ImageError

TRIALS = Path(__file__).with_name("trials.json")
_LEGACY_SINCE = (2, 16)
_PROGRAM = """
import json, os, tempfile
import numpy as np
import tensorflow as tf
import boto3, cv2, google.protobuf, h5py, imageio, matplotlib.pyplot, pandas, PIL.Image, plotly, psutil, requests
import scipy.stats, seaborn, sklearn.ensemble, tensorboard.summary, yaml

images = np.random.RandomState(0).rand(256, 8, 8, 1).astype("float32")
labels = (images[:, :4].mean(axis=(1, 2, 3)) > images[:, 4:].mean(axis=(1, 2, 3))).astype("int64")
layers = tf.keras.layers
model = tf.keras.Sequential()
model.add(layers.Conv2D(4, 3, activation="relu", input_shape=(8, 8, 1)))
model.add(layers.Flatten())
model.add(layers.Dense(2, activation="softmax"))
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
losses = model.fit(images, labels, epochs=8, verbose=0).history["loss"]
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
print("\\n" + json.dumps({"tensorflow": tf.__version__, "keras": keras, "numpy": np.__version__}))
"""


def main(uris: list[str]) -> None:
    """Tries each of `uris` in a folder of its own that is removed afterwards."""
    for uri in uris:
        image = resolve(uri, gpu=False)
        result = _try(image)
        trials = [trial for trial in trials_made() if trial["image"] != image.name]
        TRIALS.write_text(
            json.dumps([*trials, {"image": image.name, "folder": image.folder, **result}], indent=1) + "\n"
        )
        print(image.name, result, flush=True)


def trials_made() -> list[dict[str, Any]]:
    """What has been tried: image, folder (its digest), version, python, date; what was seen or why it failed."""
    return json.loads(TRIALS.read_text()) if TRIALS.exists() else []


def _try(image: FrameworkImage) -> dict[str, Any]:
    known = {"version": image.version, "python": image.python, "date": dt.date.today().isoformat()}  # noqa: DTZ011
    home = Path(tempfile.mkdtemp(prefix="clary-trial-"))
    try:
        built = ensure(image, home, lambda message: print("   ", message, flush=True))
        seen = _train(built)
        if tuple(int(part) for part in image.version.split(".")[:2]) >= _LEGACY_SINCE:
            seen["legacy_keras"] = _train(built, TF_USE_LEGACY_KERAS="1")["keras"]
    except (ImageError, subprocess.CalledProcessError) as error:
        reason = error.stderr[-600:] if isinstance(error, subprocess.CalledProcessError) else str(error)
        return {**known, "failed": reason}
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return {**known, **seen}


def _train(built: BuiltImage, **environment: str) -> dict[str, Any]:
    variables = {**built.environment, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    answer = subprocess.run(
        [built.python, "-W", "ignore", "-c", _PROGRAM], capture_output=True, text=True, env=variables, check=True
    )
    return json.loads(answer.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main(sys.argv[1:])
