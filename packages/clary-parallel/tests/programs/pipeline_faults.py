"""What goes wrong over two ranks: the first argument says what. Reports the message, or is ended by the job."""

import os
import signal
import sys
from typing import Any

import keras
import numpy as np
from rank_report import report

import clary_parallel
from clary_parallel.data import world

keras.utils.set_random_seed(1)


def piped(**options: Any) -> Any:
    layers = [keras.layers.Dense(8, activation="tanh", name=f"dense_{number}") for number in range(4)]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2, name="head")])
    made = clary_parallel.pipeline(model, partitions=2, microbatches=3, **options)
    made.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    return made


def not_finite() -> dict[str, Any]:
    model = piped(pins={"dense_1": 0, "dense_2": 1})
    model.whole.get_layer("dense_3").kernel.assign(np.full((8, 8), np.nan))
    try:
        model.fit(np.ones((6, 6)), np.ones((6, 2)), verbose=0)
    except ArithmeticError as error:
        return {"message": str(error)}
    return {}


def uneven() -> dict[str, Any]:
    """Batches of 7 and 2 in 3 micro-batches, with weights; beside one process; saved and loaded."""
    model, random = piped(), np.random.default_rng(0)
    x, y, weights = random.normal(size=(9, 6)), random.normal(size=(9, 2)), random.uniform(size=9)
    alone = keras.models.clone_model(model.whole)
    alone.set_weights(model.whole.get_weights())
    alone.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    options = {"sample_weight": weights, "batch_size": 7, "epochs": 2, "shuffle": False, "verbose": 0}
    ours, theirs = model.fit(x, y, **options).history, alone.fit(x, y, **options).history
    apart = [float(np.abs(a - b).max()) for a, b in zip(model.whole.get_weights(), alone.get_weights(), strict=True)]
    path = os.path.join(os.environ["RANK_REPORTS"], "saved.keras")  # noqa: PTH118
    model.save(path)
    loaded = keras.saving.load_model(path)
    return {
        "apart": max(apart),
        "history": max(abs(a - b) for key in theirs for a, b in zip(ours[key], theirs[key], strict=True)),
        "metrics": sorted(ours),
        "saved": float(np.abs(loaded.predict(x, verbose=0) - alone.predict(x, verbose=0)).max()),
        "steps": model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
        - alone.evaluate(x, y, verbose=0, return_dict=True)["loss"],
    }


def killed() -> dict[str, Any]:
    model = piped()
    data = np.ones((6, 6)), np.ones((6, 2))
    model.train_on(*data)
    if world.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        model.train_on(*data)


def hangs() -> dict[str, Any]:
    model = piped()
    data = np.ones((6, 6)), np.ones((6, 2))
    model.train_on(*data)
    if world.rank() == 1:
        signal.pause()
    while True:
        model.train_on(*data)


def replicas() -> dict[str, Any]:
    """Two replicas of two stages, each with half of every batch, beside one process with whole batches."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(12, 6)).astype("float32"), random.normal(size=(12, 2)).astype("float32")
    model = piped()
    start = model.get_weights()
    half = world.rank() // 2 * 6
    model.fit(x[half : half + 6], y[half : half + 6], batch_size=6, epochs=3, shuffle=False, verbose=0)
    trained = model.get_weights()
    alone = model.whole
    alone.set_weights(start)
    alone.compile(keras.optimizers.SGD(0.1), "mse")
    alone.fit(x, y, batch_size=12, epochs=3, shuffle=False, verbose=0)
    return {"apart": max(float(np.abs(a - b).max()) for a, b in zip(trained, alone.get_weights(), strict=True))}


def summed() -> dict[str, Any]:
    model = piped()
    alone = keras.models.clone_model(model.whole)
    alone.set_weights(model.whole.get_weights())
    x, y = np.ones((7, 6)), np.arange(14.0).reshape(7, 2)
    for each in (model, alone):
        each.compile(keras.optimizers.SGD(0.001), keras.losses.MeanSquaredError(reduction="sum"))
        each.fit(x, y, batch_size=7, epochs=2, shuffle=False, verbose=0)
    apart = [float(np.abs(a - b).max()) for a, b in zip(model.get_weights(), alone.get_weights(), strict=True)]
    try:
        model.compile("sgd", [keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")])
    except ValueError as error:
        return {"apart": max(apart), "refused": str(error)}
    return {}


CASES = {
    "replicas": replicas,
    "summed": summed,
    "not_finite": not_finite,
    "uneven": uneven,
    "killed": killed,
    "hangs": hangs,
}
report({case: CASES[case]() for case in sys.argv[1:]}, world.rank())
