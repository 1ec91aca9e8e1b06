"""The profiling pass: what operations take, measured once and remembered."""

import json

import pytest

import parallel_lab

pytestmark = pytest.mark.slow

PROGRAM = """
import json, os
import keras
import numpy as np
from pathlib import Path
from rank_report import report
from clary_parallel.analyse import measure_operations, measured, trace_model, with_seconds
from clary_parallel.partitioning import make_plan
from clary_parallel.pipelining.held import describe_model

L = keras.layers

class Odd(L.Layer):
    def __init__(self, secret, **options):
        super().__init__(**options)
        self.secret = secret
    def get_config(self):
        return {"name": self.name}
    def call(self, x):
        return x * self.secret

def build():
    tokens = keras.Input((16,), dtype="int32")
    x = L.Embedding(50, 64)(tokens)
    x = L.Dropout(0.1)(x + L.MultiHeadAttention(2, 32)(x, x))
    x = Odd(2.0, name="odd")(L.Dense(64, name="again")(L.Dense(64, name="small")(x)))
    return keras.Model(tokens, L.Dense(4096, name="large")(L.Dense(2048, name="before")(L.LSTM(64)(x))))

file = Path(os.environ["RANK_REPORTS"]) / "operations.json"
count = []
ordinary = measured._measure
measured._measure = lambda call, *more: count.append(call.operation.name) or ordinary(call, *more)
traced = trace_model(describe_model(build), 4)
first = measure_operations(traced, 4, file)
measured_first, count = count[:], []
second = measure_operations(traced, 4, file)
names = [operation.name for operation in traced.graph.operations]
file.write_text("broken off")
third = measure_operations(traced, 4, file)
plan = make_plan(with_seconds(traced, first).graph, 2, memory_weight=0.0)
report({
    "seconds": dict(zip(names, first)), "measured": measured_first, "measured again": len(count) - len(measured_first),
    "same": first == second, "after": sorted(third) != [], "planned": sum(stage.seconds for stage in plan.stages),
    "estimate": traced.graph.operations[traced.graph.index("odd")].seconds,
})
file.unlink()
"""


def test_operations_are_measured_once_each_and_odd_layers_keep_their_estimate():
    ended = parallel_lab.run_ranks(PROGRAM, 1)

    assert ended.code == 0, ended.errors
    found = ended.reports[0]
    seconds = found["seconds"]
    assert found["same"]
    assert found["measured again"] == 0
    assert "again" not in found["measured"]
    assert seconds["again"] == seconds["small"]
    assert min(value for name, value in seconds.items() if not name.startswith("input")) > 0
    assert seconds["large"] > seconds["small"]
    assert seconds["odd"] == pytest.approx(found["estimate"], rel=1e-6)
    assert found["planned"] == pytest.approx(sum(seconds.values()))
    assert json.dumps(seconds)
