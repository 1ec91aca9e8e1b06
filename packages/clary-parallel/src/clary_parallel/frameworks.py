"""TensorFlow and Keras, for the modules that need them.

Typed as Any: the workspace that checks types has neither, and the stubs there are describe other versions.
"""

from __future__ import annotations

import importlib
from typing import Any

tf: Any = importlib.import_module("tensorflow")


def _keras() -> Any:
    try:
        return importlib.import_module("keras")
    except ImportError:  # TensorFlow 2.2 to 2.5 hold Keras inside
        return tf.keras


keras: Any = _keras()
