"""Runs a SavedModel as TensorFlow Serving does: one session for the graph, one prepared call for each signature.

A session's prepared call costs a tenth of a call of the loaded function, takes numpy arrays as they are, and fails with
the texts that TensorFlow Serving's clients know. It is the same from TensorFlow 1.13 to the newest.
"""

from __future__ import annotations

import importlib
import os
import threading

from clary_toolkit.serving import log
from clary_toolkit.serving.errors import ServingError, StartupError
from clary_toolkit.serving.execution import Executor
from clary_toolkit.serving.signatures import PREDICT, Signature, TensorSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy as np

_INITIALISER = "__saved_model_init_op"
_STATUS_OF_CODE = {
    1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400,
    10: 409, 11: 400, 12: 501, 13: 500, 14: 503, 15: 500, 16: 401,
}  # fmt: skip


class TensorFlowExecutor(Executor):
    """A SavedModel in a session of its own."""

    kind = "TensorFlow"

    def __init__(self, path: str, intra_op: int = 0, inter_op: int = 0) -> None:
        tf = tensorflow()
        self._errors: Any = tf.errors.OpError
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=intra_op, inter_op_parallelism_threads=inter_op, allow_soft_placement=True
        )
        config.gpu_options.allow_growth = True
        graph = tf.Graph()
        with graph.as_default():
            self._session: Any = tf.compat.v1.Session(graph=graph, config=config)
            try:
                loaded = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], path)
            except Exception as error:
                self._session.close()
                raise StartupError("The SavedModel {} cannot be loaded: {}".format(path, error)) from error
        self.signatures = {
            name: _signature(tf, name, definition)
            for name, definition in loaded.signature_def.items()
            if name != _INITIALISER
        }
        self.meta_graph: Any = loaded
        self._calls: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._options: Any = importlib.import_module("tensorflow.core.protobuf.config_pb2").CallableOptions

    def run(self, signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        call = self._calls.get(signature.name) or self._prepare(signature)
        try:
            outputs = call(*[inputs[name] for name in signature.inputs])
        except self._errors as error:
            status = _STATUS_OF_CODE.get(error.error_code, 500)
            hint = signature.expects() + " " + _received(inputs) if status == 400 else ""
            raise ServingError(str(error.message), status, hint) from error
        return dict(zip(signature.outputs, outputs))

    def close(self) -> None:
        self._session.close()

    def _prepare(self, signature: Signature) -> Any:
        with self._lock:
            if signature.name not in self._calls:
                options = self._options()
                options.feed.extend(spec.tensor for spec in signature.inputs.values())
                options.fetch.extend(spec.tensor for spec in signature.outputs.values())
                self._calls[signature.name] = self._session._make_callable_from_options(options)
            return self._calls[signature.name]


def tensorflow() -> Any:
    """The image's TensorFlow, quiet about what concerns its own developers."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    try:
        tf: Any = importlib.import_module("tensorflow")
    except ImportError as error:
        raise StartupError(
            "This image has no TensorFlow to serve the model with ({}). Use a tensorflow-inference or "
            "tensorflow-training image, or an inference.py with model_fn and predict_fn.".format(error)
        ) from error
    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)
    return tf


def _signature(tf: Any, name: str, definition: Any) -> Signature:
    return Signature(
        name,
        [_spec(tf, key, information) for key, information in definition.inputs.items()],
        [_spec(tf, key, information) for key, information in definition.outputs.items()],
        definition.method_name or PREDICT,
    )


def _spec(tf: Any, name: str, information: Any) -> TensorSpec:
    dtype = tf.as_dtype(information.dtype)
    kind = str(dtype.name)
    shape = information.tensor_shape
    sizes = None if shape.unknown_rank else tuple(int(dimension.size) for dimension in shape.dim)
    enumeration = "DT_" + kind.upper()
    renamed = {"DT_FLOAT32": "DT_FLOAT", "DT_FLOAT64": "DT_DOUBLE", "DT_FLOAT16": "DT_HALF"}
    short = {"float32": "float", "float64": "double", "float16": "half"}
    return TensorSpec(
        name,
        short.get(kind, kind),
        object if dtype == tf.string else dtype.as_numpy_dtype,
        sizes,
        information.name,
        renamed.get(enumeration, enumeration),
    )


def _received(inputs: Mapping[str, np.ndarray]) -> str:
    return "Received {}.".format(
        "; ".join("{}: shape [{}]".format(name, ", ".join(map(str, array.shape))) for name, array in inputs.items())
    )


def announce_devices() -> None:
    """One line on what computes."""
    tf = tensorflow()
    gpus = tf.config.experimental.list_physical_devices("GPU") if hasattr(tf, "config") else []
    log.info("TensorFlow {} on {}".format(tf.__version__, "{} GPU".format(len(gpus)) if gpus else "CPU"))
