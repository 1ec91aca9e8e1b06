"""Makes a graph of operations from a Keras 3 model: Sequential, functional or subclassed.

Needs Keras and TensorFlow. `pipelining` and the command line call it; it calls `graph`.
"""

from clary_parallel.analyse.keras_model import Call, TracedModel, UntraceableError, trace_model
from clary_parallel.analyse.measured import measure_operations, with_seconds
from clary_parallel.analyse.pinning import partition, pins_of

__all__ = [
    "Call",
    "TracedModel",
    "UntraceableError",
    "measure_operations",
    "partition",
    "pins_of",
    "trace_model",
    "with_seconds",
]
