"""Traces and partitions models of keras.applications and others, and reports what came out; no training."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rank_report import report

import clary_parallel
from clary_parallel.analyse import UntraceableError, pins_of, trace_model
from clary_parallel.partitioning import make_plan

found: dict[str, Any] = {}
for name in ("ResNet50", "DenseNet121", "InceptionV3", "MobileNetV2"):
    model = getattr(keras.applications, name)(weights=None)
    traced = trace_model(model, 8)
    plan = make_plan(traced.graph, 4)
    found[name] = {
        "operations": len(traced.calls),
        "layers": len(model.layers),
        "weights": sum(operation.weight_bytes for operation in traced.graph.operations),
        "expected": sum(int(np.prod(weight.shape)) * 4 for weight in model.weights),
        "gflops": sum(operation.flops for operation in traced.graph.operations) / 8e9,
        "heaviest": plan.heaviest * 4,
        "exact": plan.exact,
    }

inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="deep"), keras.layers.Dense(8)])
inputs = keras.Input((6,))
with clary_parallel.partition(1):
    pinned = keras.layers.Dense(4, name="pinned")(inner(inputs))
outer = trace_model(keras.Model(inputs, keras.layers.Dense(2)(pinned)))
found["nested"] = [operation.kind for operation in outer.graph.operations]
found["pins"] = pins_of(outer)

shared = keras.layers.Dense(6, name="shared")
inputs = keras.Input((6,))
tied = trace_model(keras.Model(inputs, keras.layers.Dense(2)(shared(keras.layers.ReLU()(shared(inputs))))))
found["together"] = tied.graph.together
found["names"] = [operation.name for operation in tied.graph.operations][1:]

likes = keras.Sequential([keras.Input((64,)), *(keras.layers.Dense(64) for _ in range(3))])
found["alike"] = [operation.seconds for operation in trace_model(likes).graph.operations][1:]


class Raw(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="raw")
        self.dense = keras.layers.Dense(8)

    def call(self, x: Any) -> Any:
        return tf.reduce_sum(self.dense(x), -1)


raw = Raw()
try:
    trace_model(raw)
except UntraceableError as error:
    found["never called"] = str(error)
raw(np.zeros((2, 4), "float32"))
try:
    trace_model(raw)
except UntraceableError as error:
    found["untraceable"] = str(error)
report(found)
