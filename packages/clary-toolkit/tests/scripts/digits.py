"""A script as SageMaker's users write them: a small Keras CNN on handwritten digits."""

import argparse
import json
import os

import numpy
import tensorflow


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--model_dir", type=str)
    parser.add_argument("--sm-model-dir", type=str, default=os.environ.get("SM_MODEL_DIR"))
    parser.add_argument("--train", type=str, default=os.environ.get("SM_CHANNEL_TRAIN"))
    parser.add_argument("--hosts", type=list, default=json.loads(os.environ.get("SM_HOSTS", "[]")))
    parser.add_argument("--current-host", type=str, default=os.environ.get("SM_CURRENT_HOST"))
    return parser.parse_known_args()[0]


def build(learning_rate):
    layers = tensorflow.keras.layers
    model = tensorflow.keras.Sequential(
        [
            layers.Conv2D(16, 3, activation="relu", input_shape=(8, 8, 1)),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    optimizer = tensorflow.keras.optimizers.Adam(learning_rate)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main():
    arguments = parse_arguments()
    with numpy.load(arguments.train + "/digits.npz") as data:
        images, labels = data["images"] / 16.0, data["labels"]
    held_out = len(images) // 5
    model = build(arguments.learning_rate)
    model.fit(images[held_out:], labels[held_out:], epochs=arguments.epochs, batch_size=32, verbose=2)
    _, accuracy = model.evaluate(images[:held_out], labels[:held_out], verbose=0)
    print(f"test accuracy: {accuracy:.4f}")
    if arguments.current_host == arguments.hosts[0]:
        tensorflow.saved_model.save(model, arguments.sm_model_dir + "/1")


main()
