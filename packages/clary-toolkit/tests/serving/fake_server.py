"""Runs the model server with arithmetic in place of TensorFlow: what the tests of everything around it need."""

from __future__ import annotations

import os
import sys
import time

import numpy as np

from clary_toolkit.serving import models, server
from clary_toolkit.serving.errors import InvalidArgument
from clary_toolkit.serving.execution import Executor
from clary_toolkit.serving.signatures import Signature, TensorSpec


class Arithmetic(Executor):
    """Doubles x; the other signatures say what a request can look like."""

    kind = "arithmetic"

    def __init__(self) -> None:
        def spec(name: str, dtype: str = "float", numpy: object = np.float32, shape: tuple[int, ...] = (-1,)):
            return TensorSpec(name, dtype, numpy, shape)

        self.signatures = {
            "serving_default": Signature("serving_default", [spec("x", shape=(-1, 2))], [spec("y", shape=(-1, 2))]),
            "two": Signature(
                "two", [spec("a"), spec("b", "string", object)], [spec("sum"), spec("text_bytes", "string", object)]
            ),
            "slow": Signature("slow", [spec("x")], [spec("rows")]),
        }

    def run(self, signature, inputs):
        if signature.name == "two":
            return {"sum": inputs["a"] + 1, "text_bytes": inputs["b"]}
        if signature.name == "slow":
            time.sleep(float(os.environ.get("FAKE_SECONDS", "0.2")))
            return {"rows": inputs["x"] * 0 + len(inputs["x"])}
        if inputs["x"].ndim != 2 or inputs["x"].shape[1] != 2:
            raise InvalidArgument("Matrix size-incompatible", signature.expects())
        if (inputs["x"] == 666).any():
            raise RuntimeError("the number of the beast")
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        pass


if __name__ == "__main__":
    models.loader = lambda settings: lambda found: Arithmetic()  # type: ignore[assignment]
    sys.exit(server.main())
