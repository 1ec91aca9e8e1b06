"""What a pipeline of two ranks offers beside training: the arguments say which cases; each reports what it found."""

import os
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rank_report import report

import clary_parallel
from clary_parallel.data import world
from clary_parallel.pipelining.held import AbsentError, is_absent

L = keras.layers
RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(8, 6)).astype("float32"), RANDOM.normal(size=(8, 2)).astype("float32")
FIT = {"batch_size": 8, "shuffle": False, "verbose": 0}


def build() -> Any:
    keras.utils.set_random_seed(1)
    layers = [L.Dense(8, activation="tanh") for _ in range(4)]
    return keras.Sequential([keras.Input((6,)), *layers, L.BatchNormalization(), L.Dense(2)])


def apart(ours: Any, theirs: Any) -> float:
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(ours, theirs, strict=True))


def piped(model: Any = build, **options: Any) -> Any:
    made = clary_parallel.pipeline(model, **{"partitions": 2, "microbatches": 1, **options})
    made.compile(keras.optimizers.Adam(0.01, global_clipnorm=0.5), "mse", metrics=["mae"])
    return made


def alone(epochs: int) -> Any:
    model = build()
    model.compile(keras.optimizers.Adam(0.01, global_clipnorm=0.5), "mse", metrics=["mae"])
    model.fit(X, Y, epochs=epochs, **FIT)
    return model


def shared_path(name: str) -> Path:
    return Path(os.environ["RANK_REPORTS"]) / name


def divided() -> dict[str, Any]:
    """Each rank holds its own weights; they begin, and end, as one process's."""
    model, one = piped(), alone(0)
    began = apart(model.get_weights(), one.get_weights())
    history = model.fit(X, Y, epochs=3, **FIT).history
    expected = one.fit(X, Y, epochs=3, **FIT).history
    try:
        model.whole(X)
        refused = ""
    except AbsentError as error:
        refused = str(error)
    try:
        model.export(shared_path("exported"))
    except ValueError as error:
        refused += str(error)
    state = [variable for variable in model.optimizer.variables if "momentum" in variable.path]
    return {
        "began": began,
        "ended": apart(model.get_weights(), one.get_weights()),
        "predictions": apart([model.predict(X, verbose=0)], [one.predict(X, verbose=0)]),
        "history": max(abs(a - b) for key in expected for a, b in zip(history[key], expected[key], strict=True)),
        "absent": sum(is_absent(variable) for variable in model.whole.weights) / len(model.whole.weights),
        "absent state": sum(is_absent(variable) for variable in state) / len(state),
        "refused": refused,
    }


def checkpoints() -> dict[str, Any]:
    """Two steps, a checkpoint, two more steps elsewhere, beside four steps without a stop."""
    model, found = piped(), {}
    model.fit(X, Y, epochs=2, **FIT)
    file, whole = shared_path("saved.weights.h5"), shared_path("saved.keras")
    model.save_weights(file)
    model.save(whole)
    straight = alone(4).get_weights()
    for name, options in {"two": {}, "one": {"partitions": 1}, "with model": {"model": build()}}.items():
        other = piped(**options)
        other.load_weights(file)
        other.fit(X, Y, epochs=2, **FIT)
        found[name] = apart(other.get_weights(), straight)
    loaded = keras.saving.load_model(whole)
    found["clips"] = loaded.optimizer.global_clipnorm
    loaded.fit(X, Y, epochs=2, **FIT)
    found["one process"] = apart(loaded.get_weights(), straight)
    return found


def averages() -> dict[str, Any]:
    """An optimizer that keeps a moving average of the weights, and one with state of its own making."""
    found = {}
    for name, make in {
        "averages": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
        "nadam": lambda: keras.optimizers.Nadam(0.01),
    }.items():
        ours, one = clary_parallel.pipeline(build, 2, 1), build()
        for model in (ours, one):
            model.compile(make(), "mse")
            model.fit(X, Y, epochs=3, **FIT)
        found[name] = apart(ours.get_weights(), one.get_weights())
    return found


def optimizers() -> dict[str, Any]:
    """Every optimizer of Keras, each with a learning-rate schedule; and each schedule."""
    made = [
        optimizer
        for optimizer in vars(keras.optimizers).values()
        if isinstance(optimizer, type)
        and issubclass(optimizer, keras.optimizers.Optimizer)
        and optimizer.__name__ not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
    ]
    rates = keras.optimizers.schedules
    schedules = [
        rates.ExponentialDecay(0.05, 1, 0.5),
        rates.PiecewiseConstantDecay([1], [0.05, 0.01]),
        rates.PolynomialDecay(0.05, 2),
        rates.InverseTimeDecay(0.05, 1, 0.5),
        rates.CosineDecay(0.05, 3, warmup_target=0.1, warmup_steps=1),
        rates.CosineDecayRestarts(0.05, 1),
    ]

    def small() -> Any:
        keras.utils.set_random_seed(1)
        return keras.Sequential([keras.Input((6,)), L.Dense(4, activation="tanh"), L.Dense(2)])

    found = {}
    for number, optimizer in enumerate(made):
        ours, one = clary_parallel.pipeline(small, 2, 1), small()
        for model in (ours, one):
            model.compile(optimizer(schedules[number % len(schedules)]), "mse")
        # Inside fit, Keras loses what ScheduleFreeAdamW's state begins with.
        one.optimizer.build(one.trainable_variables)
        for model in (ours, one):
            model.fit(X, Y, epochs=2, **FIT)
        found[optimizer.__name__] = apart(ours.get_weights(), one.get_weights())
    return found


def loss_scaling() -> dict[str, Any]:
    """Half precision with a scaled loss, beside one process; then a scale that overflows."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    found: dict[str, Any] = {}
    for name, scale in {"fits": 2.0**10, "overflows": 2.0**127}.items():
        ours, one = clary_parallel.pipeline(build, 2, 1), build()
        for model in (ours, one):
            optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=scale)
            optimizer.dynamic_growth_steps = 3
            model.compile(optimizer, "mse", auto_scale_loss=False)
        before = ours.get_weights()
        for model in (ours, one):
            model.fit(X, Y, epochs=4, **FIT)
        found[name] = {
            "apart": apart(ours.get_weights(), one.get_weights()),
            "expected scale": float(np.log2(float(one.optimizer.dynamic_scale))),
            "moved": apart(ours.get_weights()[:2], before[:2]),
            "scale": float(np.log2(float(ours.optimizer.dynamic_scale))),
        }
    keras.mixed_precision.set_global_policy("float32")
    return found


def dropout() -> dict[str, Any]:
    """A draw for each micro-batch in training, the same again when recomputed; none in evaluation."""

    def with_dropout() -> Any:
        keras.utils.set_random_seed(2)
        layers = [L.Dense(8), L.Dropout(0.5), L.Dense(8), L.Dropout(0.5), L.Dense(2)]
        return keras.Sequential([keras.Input((6,)), *layers])

    weights, losses = [], []
    for options in ({}, {"recompute": True}, {"schedule": "zero_bubble"}):
        model = clary_parallel.pipeline(with_dropout, 2, 4, **options)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        losses.append(model.train_on(X, Y)["loss"])
        model.train_on(X, Y)
        weights.append(model.get_weights())
    model.set_weights(weights[0])
    twice = [model.evaluate(X, Y, verbose=0) for _ in range(2)]
    return {
        "recomputed": apart(weights[0], weights[1]),
        "split": apart(weights[0], weights[2]),
        "evaluated": abs(twice[0] - twice[1]),
        "trained": abs(losses[0] - model.evaluate(X, Y, verbose=0)),
    }


def compiled() -> dict[str, Any]:
    """Stages that XLA compiles, beside those that TensorFlow runs: with an embedding, and a mask over the boundary."""

    def attentive() -> Any:
        keras.utils.set_random_seed(4)
        tokens = keras.Input((6,), dtype="int32")
        x = L.Embedding(11, 8, mask_zero=True)(tokens)
        x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x))
        return keras.Model(tokens, L.Dense(2)(L.GlobalAveragePooling1D()(L.Dense(8, activation="gelu")(x))))

    words, found = RANDOM.integers(0, 11, (8, 6)).astype("int32"), {}
    for make, x, options in ((build, X, {}), (attentive, words, {"schedule": "zero_bubble", "recompute": True})):
        weights, predictions, functions = [], [], 0
        for jit_compile in (False, True):
            model = clary_parallel.pipeline(make, 2, 2, **options)
            model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=jit_compile)
            model.fit(x, Y, epochs=2, **FIT)
            weights.append(model.get_weights())
            predictions.append(model.predict(x, verbose=0))
            functions += [stage.code.xla for stage in model._engine._stages[True].values()].count(True)
        found[make.__name__] = {
            "apart": max(apart(*weights), apart(*zip(predictions, strict=True))),
            "compiled": functions,
        }
    return found


def changing_shapes() -> dict[str, Any]:
    """Sequences of several lengths and batches of several sizes, one after the other."""

    def recurrent() -> Any:
        keras.utils.set_random_seed(3)
        inputs = keras.Input((None, 6))
        return keras.Model(inputs, L.Dense(2)(L.GRU(8)(L.GRU(8, return_sequences=True)(inputs))))

    model, one = clary_parallel.pipeline(recurrent, 2, 2), recurrent()
    for each in (model, one):
        each.compile(keras.optimizers.SGD(0.1), "mse")
    for length, count in ((3, 8), (5, 8), (3, 6), (5, 8)):
        x = RANDOM.normal(size=(count, length, 6)).astype("float32")
        model.train_on(x, Y[:count])
        one.train_on_batch(x, Y[:count])
    return {"apart": apart(model.get_weights(), one.get_weights())}


def needs_weights() -> dict[str, Any]:
    """Building functions that want weights which are not there yet, or bring their own."""

    def loads() -> Any:
        model = build()
        model.layers[0].kernel = keras.Variable(np.zeros((6, 8)))
        return model

    def finished() -> Any:
        return made

    made, found = build(), {}
    for function in (loads, finished):
        try:
            clary_parallel.pipeline(function, 2)
        except ValueError as error:
            found[function.__name__] = str(error)
    return found


CASES = {
    case.__name__: case
    for case in (
        divided,
        checkpoints,
        averages,
        optimizers,
        loss_scaling,
        dropout,
        compiled,
        changing_shapes,
        needs_weights,
    )
}
report({name: CASES[name]() for name in sys.argv[1:]}, world.rank() if world.is_initialized() else None)
