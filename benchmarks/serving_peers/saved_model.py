"""What every peer's app does with the model: load the SavedModel, and compute a batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

IMAGES = os.environ.get("BENCH_IMAGES") == "1"
SHAPE = (224, 224, 3)


def load() -> Callable[[np.ndarray], np.ndarray]:
    """The function that computes a batch: (n, …) float32 → (n, classes) float32, threads as TensorFlow chooses."""
    model = tf.saved_model.load(str(Path(os.environ["BENCH_MODEL"]) / "1"))
    signature = model.signatures["serving_default"]

    def predict(batch: np.ndarray) -> np.ndarray:
        (answer,) = signature(tf.constant(batch)).values()
        return answer.numpy()

    predict.model = model  # type: ignore[attr-defined]  # keeps the variables
    return predict


def image(body: bytes) -> np.ndarray:
    """One image of a binary body: its float32 values."""
    return np.frombuffer(body, np.float32).reshape(SHAPE)
