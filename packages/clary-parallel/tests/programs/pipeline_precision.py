"""Mixed precision over two ranks beside the same training in one process; reports how far they part, by policy."""

from typing import Any

import keras
import numpy as np
from rank_report import report

import clary_parallel
from clary_parallel.data import world

L = keras.layers
RANDOM = np.random.default_rng(0)
COUNT, EPOCHS = 8, 6
FIT = {"batch_size": COUNT, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
WORDS = RANDOM.integers(0, 11, (COUNT, 6)).astype("int32")
IMAGES = RANDOM.normal(size=(COUNT, 8, 8, 2)).astype("float32")
NUMBERS = RANDOM.normal(size=(COUNT, 12)).astype("float32")
Y = RANDOM.normal(size=(COUNT, 2)).astype("float32")


def dense() -> Any:
    """Its outputs are in half precision, as everything that crosses its boundary."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((12,))
    first = x = L.Dense(16, activation="tanh", kernel_regularizer=keras.regularizers.L2(1e-2))(inputs)
    for _ in range(3):
        x = L.Dense(16, activation="tanh")(x)
    return keras.Model(inputs, L.Dense(2)(L.LayerNormalization()(L.Add()([x, first]))))


def transformer() -> Any:
    """A padding mask and half precision cross the boundary; the head is in full precision, as Keras advises."""
    keras.utils.set_random_seed(1)
    tokens = keras.Input((6,), dtype="int32")
    x = L.Embedding(11, 8, mask_zero=True)(tokens)
    for _ in range(2):
        x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x))
        x = L.LayerNormalization()(x + L.Dense(8)(L.Dense(16, activation="gelu")(x)))
    return keras.Model(tokens, L.Dense(2, dtype="float32")(L.GlobalAveragePooling1D()(x)))


def residual() -> Any:
    """Batches are normalised in full precision inside."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 2))
    x = L.Conv2D(4, 3, padding="same")(inputs)
    for _ in range(2):
        x = L.Add()([x, L.Conv2D(4, 3, padding="same")(L.ReLU()(L.BatchNormalization()(x)))])
    return keras.Model(inputs, L.Dense(2, dtype="float32")(L.GlobalAveragePooling2D()(x)))


def apart(ours: Any, theirs: Any) -> float:
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(ours, theirs, strict=True))


def compare(
    build: Any, x: Any, microbatches: int, make: Any, compiled: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """The same program with a pipeline and without: Keras scales losses by itself where the policy needs it."""
    ours, one = clary_parallel.pipeline(build, 2, microbatches, **options), build()
    before = one.get_weights()
    found: dict[str, Any] = {}
    for name, model in {"ours": ours, "one": one}.items():
        model.compile(make(), "mse", metrics=["mae"], **(compiled or {}))
        found[name] = {key: values[-1] for key, values in model.fit(x, Y, **FIT).history.items()}
    after = one.get_weights()
    predicted = [model.predict(x, verbose=0) for model in (ours, one)]
    return {
        "apart": apart(ours.get_weights(), after) / apart(after, before),
        "crossing": sorted({tensor.dtype for tensor in ours._layouts[1].takes}),
        "loss": abs(found["ours"]["loss"] / found["one"]["loss"] - 1),
        "mae": abs(found["ours"]["mae"] / found["one"]["mae"] - 1),
        "predictions": apart(predicted[:1], predicted[1:]) / float(np.abs(predicted[1]).max()),
        "kinds": [str(item.dtype) for item in predicted],
        "scaled": [type(model.optimizer).__name__ for model in (ours, one)],
        "weights": sorted({str(item.dtype) for item in ours.get_weights() if item.dtype != np.uint32}),
    }


def trained() -> dict[str, Any]:
    def sgd() -> Any:
        return keras.optimizers.SGD(0.05, momentum=0.9)

    def clipped() -> Any:
        return keras.optimizers.SGD(0.05, global_clipnorm=0.1)

    def scaled() -> Any:
        # From the scale of its own choice on, rounding may decide whether the first steps overflow.
        return keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=2.0**6)

    return {
        "dense": compare(dense, NUMBERS, 4, sgd),
        "dense, split and recomputed, clipped": compare(
            dense, NUMBERS, 4, clipped, schedule="zero_bubble", recompute=True
        ),
        "transformer": compare(transformer, WORDS, 4, scaled, {"auto_scale_loss": False}),
        "residual": compare(residual, IMAGES, 1, sgd),
    }


def overflowing() -> dict[str, Any]:
    """A scale that overflows at first: steps are left out until it has come down."""
    ours, one = clary_parallel.pipeline(transformer, 2, 2), transformer()
    for model in (ours, one):
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=2.0**17)
        model.compile(optimizer, "mse", auto_scale_loss=False)
    steps: list[list[float]] = []
    for _ in range(10):
        before = ours.get_weights()
        ours.train_on(WORDS, Y)
        one.train_on_batch(WORDS, Y)
        moved = apart(ours.get_weights(), before) > 0
        made = [int(model.optimizer.inner_optimizer.iterations) for model in (ours, one)]
        steps.append([float(moved), float(np.log2(float(ours.optimizer.dynamic_scale))), *made])
    return {
        "apart": apart(ours.get_weights(), one.get_weights()),
        "scale of one": float(np.log2(float(one.optimizer.dynamic_scale))),
        "steps": steps,
    }


def poisoned() -> str:
    """NaN that no scale mends is an error, named by its stage."""
    model = clary_parallel.pipeline(dense, 2, 2)
    model.compile(keras.optimizers.SGD(0.05), "mse")
    weights = model.get_weights()
    model.set_weights([np.full_like(weights[0], np.nan), *weights[1:]])
    try:
        model.train_on(NUMBERS, Y)
    except ArithmeticError as error:
        return str(error)
    return ""


def own_policy() -> list[str]:
    """The model's policy counts, not the one that holds when the pipeline is made."""
    model = dense()
    keras.config.set_dtype_policy("float32")
    piped = clary_parallel.pipeline(model, 2, 2)
    piped.compile("sgd", "mse")
    return [type(piped.optimizer).__name__, piped.compute_dtype]


world.init()
found: dict[str, Any] = {}
for policy in ("mixed_float16", "mixed_bfloat16"):
    keras.config.set_dtype_policy(policy)
    found[policy] = trained()
keras.config.set_dtype_policy("mixed_float16")
found["overflowing"] = overflowing()
keras.config.set_dtype_policy("mixed_bfloat16")
found["poisoned"] = poisoned()
keras.config.set_dtype_policy("mixed_float16")
found["own_policy"] = own_policy()
report(found, world.rank())
