"""Trains a model in as much memory as it is given: alone it fails, over two processes it fits.

python train.py                    the ordinary Keras program: runs out of memory
mpirun -n 2 python train.py        the same program, a part of the model in each process
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import numpy as np
from limited import limit_memory

import clary_parallel

WIDTH, LAYERS = 2048, 12


def build_model() -> Any:
    """192 MiB of weights; training with Adam holds them four times: weights, gradients, two moments."""
    layers = [keras.layers.Dense(WIDTH, activation="relu") for _ in range(LAYERS)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(10)])


def main() -> None:
    """Train for two epochs on made-up data, save, and say what came of it."""
    parser = argparse.ArgumentParser(description="Train a model that may be larger than one process's memory.")
    parser.add_argument("--limit", type=int, default=1000, help="MiB that a process may take (default: 1000)")
    options = parser.parse_args()
    clary_parallel.init()
    limit_memory(options.limit)
    keras.utils.set_random_seed(0)
    if clary_parallel.size() == 1:
        model = build_model()
    else:
        model = clary_parallel.pipeline(build_model, partitions=clary_parallel.size(), microbatches=4)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    random = np.random.default_rng(0)
    x, classes = random.normal(size=(128, WIDTH)).astype("float32"), random.integers(0, 10, 128)
    model.fit(x, classes, batch_size=64, epochs=2)
    model.save("trained.keras")
    if clary_parallel.rank() == 0:
        print("Trained and saved: trained.keras is the ordinary, whole model.")


main()
