"""Trains small models by fit: stock Keras in one process, or data parallel on ranks; reports weights and logs.

Usage: equality.py stock|parallel
"""

import sys

import keras
import numpy as np
from rank_report import report

import clary_parallel

random = np.random.default_rng(0)
images = random.normal(size=(50, 8, 8, 3)).astype("float32")
tokens = random.integers(0, 20, size=(50, 6))
vectors = random.normal(size=(50, 8)).astype("float32")
labels = random.integers(0, 3, size=50)


def dense():
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, "tanh", kernel_regularizer="l2")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden)), vectors


def convolution():
    inputs = keras.Input((8, 8, 3))
    hidden = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    hidden = keras.layers.LayerNormalization()(hidden)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(hidden))), images


def embedding():
    inputs = keras.Input((6,), dtype="int32")
    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 5)(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(hidden)), tokens


def attention():
    inputs = keras.Input((6,), dtype="int32")
    hidden = keras.layers.Embedding(20, 8)(inputs)
    hidden = hidden + keras.layers.MultiHeadAttention(2, 4)(hidden, hidden)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(hidden))), tokens


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01, epsilon=1e-3),
    "clipnorm": lambda: keras.optimizers.SGD(0.1, clipnorm=0.05),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.1),
}
CASES = [(dense, "sgd"), (dense, "clipnorm"), (dense, "global_clipnorm"), (convolution, "adam")]
CASES += [(embedding, "sgd"), (embedding, "adam"), (attention, "adam"), (attention, "global_clipnorm")]


def train(build, optimizer, parallel, **settings):
    keras.utils.set_random_seed(5)
    model, inputs = build()
    if parallel:
        model = clary_parallel.data_parallel(model, **settings)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    auc = [keras.metrics.SparseCategoricalAccuracy(name="right"), keras.metrics.SparseTopKCategoricalAccuracy(2)]
    model.compile(OPTIMIZERS[optimizer](), loss, metrics=auc)
    # 15 is odd, and the last batch of 50 - 10 = 40 training samples has 10.
    history = model.fit(
        inputs,
        labels,
        batch_size=15,
        epochs=2,
        shuffle=False,
        validation_split=0.2,
        verbose=0,
        sample_weight=np.linspace(0.5, 1.5, 50),
    )
    return {
        "weights": [weight.tolist() for weight in model.get_weights()],
        "logs": {name: [float(value) for value in values] for name, values in history.history.items()},
        "evaluated": [float(value) for value in model.evaluate(inputs, labels, verbose=0)],
        "predicted": np.asarray(model.predict(inputs, verbose=0)).tolist(),
        "iterations": int(model.optimizer.iterations),
    }


def main():
    parallel = sys.argv[1] == "parallel"
    results = {f"{build.__name__} {optimizer}": train(build, optimizer, parallel) for build, optimizer in CASES}
    report(results)


if __name__ == "__main__":
    main()
