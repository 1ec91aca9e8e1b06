"""Trains models of many families over two ranks and, on each rank alone, as one process; reports how far they part.

Where a model normalises batches, the single process cuts its batches into the same micro-batches.
"""

import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rank_report import report

import clary_parallel
from clary_parallel.data import world

L, ops = keras.layers, keras.ops
RANDOM = np.random.default_rng(0)
BATCH, STEPS, MICROBATCHES = 8, 2, 4


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype("float32")


def dense_with_skips() -> tuple[Any, Any, Any]:
    inputs = keras.Input((12,), name="features")
    hidden = skip = L.Dense(16, activation="tanh", kernel_regularizer=keras.regularizers.L2(1e-2))(inputs)
    for _ in range(4):
        hidden = L.Dense(16, activation="tanh")(hidden)
    hidden = L.LayerNormalization()(L.Add()([hidden, skip]))
    return keras.Model(inputs, L.Dense(3)(L.Concatenate()([hidden, inputs]))), numbers(BATCH, 12), numbers(BATCH, 3)


def sequential() -> tuple[Any, Any, Any]:
    layers = [keras.Input((6,)), *(L.Dense(8, activation="tanh") for _ in range(4)), L.Dense(2)]
    return keras.Sequential(layers), numbers(BATCH, 6), numbers(BATCH, 2)


def residual() -> tuple[Any, Any, Any]:
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same")(inputs)
    for _ in range(2):
        y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x)))
        x = L.Add()([x, L.Conv2D(4, 3, padding="same")(y)])
    return keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x))), numbers(BATCH, 8, 8, 3), numbers(BATCH, 2)


def densely_connected() -> tuple[Any, Any, Any]:
    inputs = keras.Input((8, 8, 2))
    x = inputs
    for _ in range(4):
        x = L.Concatenate()([x, L.Conv2D(2, 3, padding="same", activation="tanh")(x)])
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(x))), numbers(BATCH, 8, 8, 2), numbers(BATCH, 2)


def u_net() -> tuple[Any, Any, Any]:
    inputs = keras.Input((8, 8, 1))
    a = L.Conv2D(2, 3, padding="same", activation="tanh")(inputs)
    b = L.Conv2D(4, 3, strides=2, padding="same", activation="tanh")(a)
    c = L.Conv2D(4, 3, strides=2, padding="same", activation="tanh")(b)
    up = L.Concatenate()([L.UpSampling2D()(c), b])
    up = L.Concatenate()([L.Conv2DTranspose(2, 2, strides=2)(up), a])
    return keras.Model(inputs, L.Conv2D(1, 1)(up)), numbers(BATCH, 8, 8, 1), numbers(BATCH, 8, 8, 1)


def inception() -> tuple[Any, Any, Any]:
    inputs = keras.Input((8, 8, 2))
    x = inputs
    for _ in range(2):
        branches = [L.Conv2D(2, size, padding="same", activation="tanh")(x) for size in (1, 3, 5)]
        x = L.Concatenate()([*branches, L.AveragePooling2D(3, strides=1, padding="same")(x)])
    return keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(x))), numbers(BATCH, 8, 8, 2), numbers(BATCH, 2)


def transformer() -> tuple[Any, Any, Any]:
    """An encoder whose padding mask crosses the boundary."""
    tokens = keras.Input((6,), dtype="int32")
    x = L.Embedding(11, 8, mask_zero=True)(tokens)
    for _ in range(2):
        x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x))
        x = L.LayerNormalization()(x + L.Dense(8)(L.Dense(16, activation="gelu")(x)))
    words = RANDOM.integers(0, 11, (BATCH, 6)).astype("int32")
    return keras.Model(tokens, L.Dense(2)(L.GlobalAveragePooling1D()(x))), words, numbers(BATCH, 2)


def recurrent() -> tuple[Any, Any, Any]:
    tokens = keras.Input((6,), dtype="int32")
    x = L.Embedding(11, 8, mask_zero=True)(tokens)
    x = L.LSTM(8, return_sequences=True)(x)
    x = L.Bidirectional(L.GRU(4))(x)
    return keras.Model(tokens, L.Dense(2)(x)), RANDOM.integers(0, 11, (BATCH, 6)).astype("int32"), numbers(BATCH, 2)


def many_inputs_and_outputs() -> tuple[Any, Any, Any]:
    left, right = keras.Input((4,), name="left"), keras.Input((5,), name="right")
    a, b = L.Dense(6, activation="tanh")(left), L.Dense(6, activation="tanh")(right)
    both = L.Dense(6, activation="tanh")(L.Concatenate()([a, b]))
    model = keras.Model({"left": left, "right": right}, {"early": L.Dense(2)(a), "late": L.Dense(3)(both)})
    data = {"left": numbers(BATCH, 4), "right": numbers(BATCH, 5)}
    return model, data, {"early": numbers(BATCH, 2), "late": numbers(BATCH, 3)}


def shared_layer() -> tuple[Any, Any, Any]:
    inputs = keras.Input((6,))
    shared = L.Dense(6, activation="tanh")
    x = L.Dense(6, activation="tanh")(shared(shared(inputs)))
    return keras.Model(inputs, L.Dense(2)(L.Dense(6)(x))), numbers(BATCH, 6), numbers(BATCH, 2)


class Blocks(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [L.Dense(8, activation="tanh") for _ in range(4)]
        self.head = L.Dense(2)

    def call(self, x: Any) -> Any:
        for block in self.blocks:
            x = ops.concatenate([block(x), x], axis=-1)
        return self.head(x)


def subclassed() -> tuple[Any, Any, Any]:
    model, x = Blocks(), numbers(BATCH, 4)
    model(x)
    return model, x, numbers(BATCH, 2)


def model_in_a_model() -> tuple[Any, Any, Any]:
    inner = keras.Sequential([keras.Input((6,)), L.Dense(8, activation="tanh"), L.Dense(8, activation="tanh")])
    inputs = keras.Input((6,))
    x = L.Dense(4, activation="tanh")(inner(inputs))
    return keras.Model(inputs, L.Dense(2)(x)), numbers(BATCH, 6), numbers(BATCH, 2)


@keras.saving.register_keras_serializable("tests")
class Pull(L.Layer):
    """Adds a loss of its own that is no scalar, and one of its weight."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", regularizer=keras.regularizers.L1(3e-2))

    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * ops.mean((x * self.scale - 0.3) ** 2, axis=0))
        return x * self.scale


def regularised() -> tuple[Any, Any, Any]:
    """Losses of weights, activities and layers in every part, twice of a shared layer; one head has no other loss."""
    regularisers = keras.regularizers
    inputs = keras.Input((6,), name="features")
    shared = L.Dense(6, activation="tanh", activity_regularizer=regularisers.L2(5e-2))
    x = Pull()(shared(shared(inputs)))
    early = L.Dense(2, name="early", kernel_regularizer="l2", activity_regularizer=regularisers.L1(5e-2))(x)
    x = L.Dense(6, kernel_regularizer=regularisers.OrthogonalRegularizer(5e-2), bias_regularizer="l1")(x)
    x = Pull()(L.ActivityRegularization(l2=5e-2)(L.Dense(8, activation="tanh")(x)))
    model = keras.Model(inputs, {"early": early, "late": L.Dense(3, name="late", kernel_regularizer="l2")(x)})
    return model, numbers(BATCH, 6), {"late": numbers(BATCH, 3)}


def only_regularised() -> tuple[Any, Any, Any]:
    """No targets: all that moves the weights are losses of layers, on whose account a gradient crosses the cut."""
    inputs = keras.Input((6,))
    x = L.Dense(8, activation="tanh")(inputs)
    x = Pull()(L.Dense(8, activation="tanh", kernel_regularizer="l2")(x))
    x = L.Dense(8, activation="tanh")(x)
    return keras.Model(inputs, L.Dense(2, activity_regularizer="l2")(x)), numbers(BATCH, 6), None


FAMILIES = [
    dense_with_skips,
    sequential,
    residual,
    densely_connected,
    u_net,
    inception,
    transformer,
    recurrent,
    many_inputs_and_outputs,
    shared_layer,
    subclassed,
    model_in_a_model,
]


def alone(model: Any, optimizer: Any, x: Any, y: Any, count: int) -> float:
    """Single-process training; gradients of micro-batches are added up. Returns the last loss."""
    loss_function = keras.losses.MeanSquaredError()
    total = 0.0
    for _ in range(STEPS):
        sums = [np.zeros(variable.shape, "float32") for variable in model.trainable_variables]
        total = 0.0
        for part in range(count):

            def cut(item: Any, part: int = part) -> Any:
                return item[part * BATCH // count : (part + 1) * BATCH // count]

            with tf.GradientTape() as tape:
                made = model(keras.tree.map_structure(cut, x), training=True)
                if isinstance(y, dict):
                    made = {name: made[name] for name in y}
                targets = [] if y is None else keras.tree.flatten(keras.tree.map_structure(cut, y))
                pairs = zip(targets, keras.tree.flatten(made) if targets else [], strict=True)
                added = sum(tf.reduce_sum(tf.cast(item, tf.float32)) for item in model.losses)
                loss = (sum(loss_function(a, b) for a, b in pairs) + added) / count
            gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
            for number, gradient in enumerate(gradients):
                sums[number] += tf.convert_to_tensor(gradient).numpy()
            total += float(loss)
        optimizer.apply([tf.constant(item) for item in sums], model.trainable_variables)
    return total


def compare(family: Any, optimizer: Any, **options: Any) -> dict[str, float]:
    keras.utils.set_random_seed(3)
    model, x, y = family()
    start = [weight.copy() for weight in model.get_weights()]
    piped = clary_parallel.pipeline(model, microbatches=MICROBATCHES, **options)
    losses = dict.fromkeys(y, "mse") if isinstance(y, dict) else "mse"
    piped.compile(optimizer(), None if y is None else losses)
    history = piped.fit(x, y, batch_size=BATCH, epochs=STEPS, shuffle=False, verbose=0)
    trained = [weight.copy() for weight in model.get_weights()]
    predicted = keras.tree.flatten(piped.predict(x, verbose=0, batch_size=BATCH))
    expected = keras.tree.flatten(model(x, training=False))
    model.set_weights(start)
    loss = alone(model, optimizer(), x, y, MICROBATCHES)
    largest = max(float(np.abs(weight).max()) for weight in model.get_weights())
    apart = max(float(np.abs(a - b).max()) for a, b in zip(trained, model.get_weights(), strict=True))
    moved = max(float(np.abs(a - b).max()) for a, b in zip(trained, start, strict=True))
    predictions = max(float(np.abs(a - np.asarray(b)).max()) for a, b in zip(predicted, expected, strict=True))
    return {
        "weights": apart / largest,
        "moved": moved,
        "loss": abs(history.history["loss"][-1] - loss) / max(abs(loss), 1e-6),
        "predictions": predictions,
    }


def rate_schedule() -> Any:
    return keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5)


def main() -> None:
    parts = int(sys.argv[1])
    found: dict[str, dict[str, float]] = {}
    if sys.argv[2] == "families":
        for family in FAMILIES:
            found[family.__name__] = compare(family, lambda: keras.optimizers.SGD(0.05, momentum=0.9), partitions=parts)
    elif sys.argv[2] == "regularised":
        both: list[tuple[Any, dict[str, Any]]] = [
            (regularised, {"schedule": "simple"}),
            (regularised, {"schedule": "interleaved", "virtual": 2, "recompute": True}),
            (regularised, {"schedule": "zero_bubble"}),
            (only_regularised, {"schedule": "interleaved"}),
            (only_regularised, {"schedule": "zero_bubble"}),
        ]
        for family, options in both:
            name = " ".join([family.__name__, *map(str, options.values())])
            found[name] = compare(family, lambda: keras.optimizers.SGD(0.1, momentum=0.9), partitions=parts, **options)
    else:
        cases: list[tuple[str, dict[str, Any], Any, Any]] = [
            ("simple", {}, dense_with_skips, lambda: keras.optimizers.SGD(0.05, global_clipnorm=0.3)),
            ("interleaved", {"virtual": 2}, dense_with_skips, lambda: keras.optimizers.Adam(1e-3, global_clipnorm=0.3)),
            ("zero_bubble", {}, residual, lambda: keras.optimizers.SGD(0.05, global_clipnorm=0.3)),
            (
                "interleaved",
                {"recompute": True},
                residual,
                lambda: keras.optimizers.SGD(0.05, nesterov=True, momentum=0.9, clipnorm=0.3),
            ),
            ("zero_bubble", {"recompute": True}, dense_with_skips, lambda: keras.optimizers.SGD(rate_schedule())),
        ]
        for schedule, options, family, optimizer in cases:
            name = " ".join([schedule, *(f"{key}={value}" for key, value in options.items())])
            found[name] = compare(family, optimizer, partitions=parts, schedule=schedule, **options)
    report(found, world.rank())


main()
