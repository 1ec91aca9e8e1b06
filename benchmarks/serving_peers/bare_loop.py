"""A model in a bare loop, without any server: answers each line `SECONDS BATCH` on its input with a line of JSON.

    bare_loop.py tensorflow|openvino MODEL_FOLDER

With openvino (the engine that Clary computes with where it can) the loop runs in the image's own Python.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def tensorflow_model(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    os.environ["BENCH_MODEL"] = str(folder)
    import saved_model

    return saved_model.load()


def openvino_model(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(openvino.convert_model(folder / "1"), "CPU", settings)
    return lambda batch: compiled(batch)[0]


def measure(predict: Callable[[np.ndarray], np.ndarray], batch: np.ndarray, seconds: float) -> dict[str, float]:
    times: list[float] = []
    began = time.perf_counter()
    while (at := time.perf_counter()) - began < seconds:
        predict(batch)
        times.append(time.perf_counter() - at)
    took = time.perf_counter() - began
    p50, p99 = (1000 * float(value) for value in np.percentile(times, (50, 99)))
    return {"p50": p50, "p99": p99, "rate": len(batch) * len(times) / took}


def main() -> None:
    engine, folder = sys.argv[1], Path(sys.argv[2])
    predict = (tensorflow_model if engine == "tensorflow" else openvino_model)(folder)
    sample = np.load(folder / "sample.npy")
    predict(sample)
    print("ready", flush=True)
    for line in sys.stdin:
        seconds, rows = line.split()
        print(json.dumps(measure(predict, np.repeat(sample, int(rows), 0), float(seconds))), flush=True)


if __name__ == "__main__":
    main()
