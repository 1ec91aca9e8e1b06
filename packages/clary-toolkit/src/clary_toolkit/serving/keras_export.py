"""Makes a SavedModel of a .keras or .h5 file, so that every model runs the same way."""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import tempfile

from clary_toolkit.serving import log
from clary_toolkit.serving.errors import StartupError
from clary_toolkit.serving.tensorflow_execution import tensorflow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def as_saved_model(path: str) -> str:
    """A folder with the SavedModel of the Keras model in the file; it goes when the server ends.

    Raises StartupError where Keras cannot load it.
    """
    tf = tensorflow()
    folder = tempfile.mkdtemp(prefix="clary-keras-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = os.path.join(folder, "1")
    model = _load(tf, path)
    log.info("Exporting the Keras model {} for serving".format(path))
    try:
        if hasattr(model, "export"):
            try:
                model.export(target, verbose=False)
            except TypeError:  # Keras 2 has no such argument
                model.export(target)
        else:
            tf.saved_model.save(model, target)
    except Exception as error:
        raise StartupError(
            "The Keras model {} cannot be exported for serving: {}. Export it in the training script with "
            "model.export('/opt/ml/model/1').".format(path, error)
        ) from error
    return target


def _load(tf: Any, path: str) -> Any:
    try:
        return tf.keras.models.load_model(path, compile=False)
    except Exception as error:
        try:
            legacy: Any = importlib.import_module("tf_keras")
        except ImportError:
            legacy = None
        if legacy is not None and not path.endswith(".keras"):
            try:
                return legacy.models.load_model(path, compile=False)
            except Exception as second:  # noqa: BLE001 - both errors are told below
                error = StartupError("{}; and by Keras 2: {}".format(error, second))
        raise StartupError("The Keras model {} cannot be loaded: {}".format(path, error)) from error
