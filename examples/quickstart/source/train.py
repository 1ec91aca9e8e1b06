"""Train a small convolutional network on images of handwritten digits.

An ordinary SageMaker script: hyperparameters come as arguments, data lies in SM_CHANNEL_TRAIN, and what is written to
SM_MODEL_DIR becomes model.tar.gz. It knows nothing of Clary.
"""

import argparse
import os
from pathlib import Path

import keras
import numpy as np
from keras import layers


def build_model(classes: int) -> keras.Model:
    """A network for 8 × 8 grey images: input (batch, 8, 8, 1) in 0…1, output (batch, classes) probabilities."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.BatchNormalization(momentum=0.9),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.BatchNormalization(momentum=0.9),
            layers.MaxPooling2D(),
            layers.Conv2D(128, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.004)
    parser.add_argument("--model_dir", help="where SageMaker would have checkpoints; not needed here")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(7)
    with np.load(Path(os.environ["SM_CHANNEL_TRAIN"]) / "digits.npz") as data:
        train = data["train_images"], data["train_labels"]
        test = data["test_images"], data["test_labels"]
    print(f"{len(train[0])} images to learn from, {len(test[0])} to test on", flush=True)

    steps = arguments.epochs * -(-len(train[0]) // arguments.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(arguments.learning_rate, steps)
    model = build_model(classes=10)
    # The shifts are part of the learning, not of the model: an exported layer would go on shifting what it is asked.
    shifts = layers.RandomTranslation(0.1, 0.1, fill_mode="constant")
    learner = keras.Sequential([keras.Input((8, 8, 1)), shifts, model])
    learner.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"])
    learner.fit(*train, batch_size=arguments.batch_size, epochs=arguments.epochs, validation_data=test, verbose=2)

    loss, accuracy = learner.evaluate(*test, verbose=0)
    print(f"test loss: {loss:.4f}")
    print(f"test accuracy: {accuracy:.4f}")
    folder = Path(os.environ["SM_MODEL_DIR"])
    model.save(folder / "digits.keras")
    model.export(folder / "1", verbose=False)  # a SavedModel, for serving


if __name__ == "__main__":
    main()
