"""Which engine computes beside TensorFlow: OpenVINO on processors, where the environment has it; none on a GPU."""

from __future__ import annotations

import importlib.util
import threading

from clary_toolkit.serving import log, saved_model_operations
from clary_toolkit.serving.execution import Unfit
from clary_toolkit.serving.settings import BFLOAT16, FLOAT32, INT8, TENSORFLOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import numpy as np

    from clary_toolkit.serving.execution import Engine, Executor
    from clary_toolkit.serving.openvino_execution import OpenVino
    from clary_toolkit.serving.settings import Settings
    from clary_toolkit.serving.signatures import Signature
    from clary_toolkit.serving.tensorflow_execution import TensorFlowExecutor

# The largest difference to TensorFlow, as a part of an output's largest value.
_TOLERANCES = {FLOAT32: 1e-4, BFLOAT16: 5e-2, INT8: 0.25}
_CALIBRATION_ROWS = 32  # of the first requests; many more change little
_lock = threading.Lock()
_openvino: dict[tuple[str, int, int], OpenVino] = {}


def beside(trusted: TensorFlowExecutor, path: str, settings: Settings) -> Executor:
    """What runs the SavedModel at `path`: TensorFlow, with OpenVINO beside it where there is one."""
    reason = _why_not(settings)
    if reason:
        tell = log.warning if settings.precision != FLOAT32 else log.info
        tell("TensorFlow computes, in float32. {}".format(reason))
        return trusted
    from clary_toolkit.serving.checked_execution import CheckedExecutor

    def prepare(signature: Signature, samples: Sequence[Mapping[str, np.ndarray]]) -> Engine:
        objection = saved_model_operations.objection(
            trusted.meta_graph, [spec.tensor for spec in signature.outputs.values()]
        )
        if objection:
            raise Unfit(objection)
        return _shared(settings).engine(path, signature, samples)

    rows = _CALIBRATION_ROWS if settings.precision == INT8 else 0
    return CheckedExecutor(trusted, prepare, _TOLERANCES[settings.precision], path, rows)


def _why_not(settings: Settings) -> str:
    if settings.execution == TENSORFLOW:
        return "So says CLARY_SERVING_EXECUTION."
    if importlib.util.find_spec("openvino") is None:
        return "This image has no OpenVINO."
    if settings.precision == INT8 and importlib.util.find_spec("nncf") is None:
        return "For int8 NNCF has to quantise the model: write nncf into its code/requirements.txt."
    from clary_toolkit.serving.tensorflow_execution import tensorflow

    tf: Any = tensorflow()
    if tf.config.experimental.list_physical_devices("GPU"):
        return "There is a GPU for it."
    return ""


def _shared(settings: Settings) -> OpenVino:
    """One for all models: making it takes longer than most models."""
    from clary_toolkit.serving.openvino_execution import OpenVino

    key = (settings.precision, settings.cores, settings.slots)
    with _lock:
        if key not in _openvino:
            _openvino[key] = OpenVino(*key)
        return _openvino[key]
