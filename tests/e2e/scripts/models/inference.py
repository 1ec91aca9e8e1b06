"""A model that multiplies by the factor in its folder; numpy is not needed for that."""

import json
import os
import pathlib


def model_fn(model_dir):
    factor = pathlib.Path(model_dir, "factor").read_text()
    if factor == "broken":
        raise ValueError("this model is broken")
    ballast = pathlib.Path(model_dir, "ballast")
    return float(factor), b"x" * int(ballast.read_text()) if ballast.exists() else b""


def input_fn(data, content_type):
    if content_type == "text/csv":
        return [float(word) for word in data.split(",")]
    return json.loads(data)


def predict_fn(rows, model):
    factor, _ = model
    return [factor * each for each in rows]


def output_fn(prediction, accept):
    if accept == "text/csv":
        return ",".join(map(str, prediction)), "text/csv"
    return json.dumps({"answer": prediction, "process": os.getpid()}), "application/json"
