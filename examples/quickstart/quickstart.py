"""Train, deploy and ask the digits network with the SageMaker SDK, as one would on AWS; nothing in here is Clary's.

Run it with `clary quickstart`; or, in an environment with requirements.txt: clary run -- python quickstart.py
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import sagemaker
from pictures import draw_in_terminal, save_png
from sagemaker.tensorflow import TensorFlow
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent


def split_digits() -> dict[str, np.ndarray]:
    """scikit-learn's 1,797 handwritten digits: images (batch, 8, 8, 1) in 0…1 and labels, to learn from and to test."""
    digits = load_digits()
    images = (digits.images / 16.0).astype("float32")[..., np.newaxis]
    split = train_test_split(images, digits.target, test_size=0.2, stratify=digits.target, random_state=7)
    return dict(zip(("train_images", "test_images", "train_labels", "test_labels"), split, strict=True))


def upload(digits: dict[str, np.ndarray], session: sagemaker.Session) -> str:
    """Put the digits into the default bucket; returns their S3 address."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez_compressed(Path(folder) / "digits.npz", **digits)
        return session.upload_data(folder, key_prefix="quickstart/digits")


def deploy_and_ask(estimator: TensorFlow, images: np.ndarray, seconds: dict[str, float]) -> np.ndarray:
    """What an endpoint of the trained network says of images: (batch, 10) probabilities. It is deleted again."""
    began = time.time()
    predictor = estimator.deploy(initial_instance_count=1, instance_type="ml.m5.large")
    seconds["Endpoint"] = round(time.time() - began, 1)
    try:
        print(f"\nThe endpoint {predictor.endpoint_name} is in service.")
        began = time.time()
        answer = predictor.predict({"instances": images.tolist()})
        seconds["Predictions"] = round(time.time() - began, 1)
    finally:
        predictor.delete_model()
        predictor.delete_endpoint()
    return np.array(answer["predictions"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--framework-version", default="2.19")
    parser.add_argument("--py-version", default="py312")
    parser.add_argument("--picture", type=Path, default=Path("predictions.png"), help="where the picture goes")
    parser.add_argument("--result", type=Path, help="write the outcome here as JSON")
    arguments = parser.parse_args()

    session = sagemaker.Session()
    digits = split_digits()
    seconds: dict[str, float] = {}
    estimator = TensorFlow(
        entry_point="train.py",
        source_dir=str(HERE / "source"),
        role=sagemaker.get_execution_role(),
        framework_version=arguments.framework_version,
        py_version=arguments.py_version,
        instance_count=1,
        instance_type="ml.m5.large",
        hyperparameters={"epochs": arguments.epochs},
        metric_definitions=[{"Name": "test:accuracy", "Regex": r"test accuracy: ([0-9.]+)"}],
        base_job_name="quickstart",
    )
    began = time.time()
    estimator.fit({"train": upload(digits, session)})
    seconds["Training job"] = round(time.time() - began, 1)
    job = estimator.latest_training_job.describe()
    accuracy = next(m["Value"] for m in job["FinalMetricDataList"] if m["MetricName"] == "test:accuracy")
    print(f"\nTest accuracy: {accuracy:.2%}\nModel: {estimator.model_data}\n")

    images, labels = digits["test_images"], digits["test_labels"]
    answers = deploy_and_ask(estimator, images, seconds)
    right = answers.argmax(axis=1) == labels
    # The surest answers make a dull picture: show a few of the hardest, and all that are wrong among them.
    hardest = np.argsort(answers.max(axis=1))[:8]
    print(draw_in_terminal(images[hardest], answers[hardest], labels[hardest]))
    save_png(arguments.picture, images[:40], answers[:40], labels[:40])
    print(f"The endpoint read {right.sum()} of {len(labels)} images rightly. Picture: {arguments.picture.absolute()}")
    if arguments.result:
        result = {
            "job": job["TrainingJobName"],
            "accuracy": accuracy,
            "model": estimator.model_data,
            "served_accuracy": float(right.mean()),
            "picture": str(arguments.picture.absolute()),
            "seconds": seconds,
        }
        arguments.result.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
