"""A SageMaker SDK v2 script that touches what scripts touch: roles, buckets, uploads, fit, metrics, attach."""

import tempfile
import time
from pathlib import Path

import boto3
import numpy as np
import sagemaker
from sagemaker.analytics import TrainingJobAnalytics
from sagemaker.tensorflow import TensorFlow

session = sagemaker.Session()
role = sagemaker.get_execution_role()
bucket = session.default_bucket()
print("account", session.account_id(), "role", role, "bucket", bucket)

folder = Path(tempfile.mkdtemp())
generator = np.random.default_rng(1)
images = generator.normal(size=(200, 4)).astype("float32")
np.savez(folder / "data.npz", x=images, y=(images.sum(axis=1) > 0).astype("int64"))
inputs = session.upload_data(str(folder), bucket=bucket, key_prefix="v2/data")
print("uploaded", inputs)

estimator = TensorFlow(
    entry_point="keras_small.py",
    source_dir="source",
    role=role,
    framework_version="2.19",
    py_version="py312",
    instance_count=1,
    instance_type="ml.m5.large",
    hyperparameters={"epochs": 3, "note": "two words", "learning-rate": 0.05},
    metric_definitions=[
        {"Name": "train:loss", "Regex": "epoch [0-9]+ loss=([0-9.]+)"},
        {"Name": "test:accuracy", "Regex": "accuracy=([0-9.]+)"},
    ],
    environment={"COLOUR": "green"},
    tags=[{"Key": "team", "Value": "vision"}],
)
estimator.fit({"train": inputs}, logs=True)
returned = time.time()

name = estimator.latest_training_job.name
job = estimator.latest_training_job.describe()
print("returned %.2f s after the end" % (returned - job["TrainingEndTime"].timestamp()))
print("model", estimator.model_data)
print("final", {m["MetricName"]: m["Value"] for m in job["FinalMetricDataList"]})

metrics = TrainingJobAnalytics(name, metric_names=["train:loss"]).dataframe()
print("analytics", len(metrics), list(metrics["metric_name"].unique()))

attached = TensorFlow.attach(name)
assert attached.model_data == estimator.model_data
assert attached.hyperparameters()["note"] == estimator.hyperparameters()["note"]

target = tempfile.mkdtemp()
session.download_data(target, bucket, key_prefix=estimator.model_data.split("/", 3)[3])
print("downloaded", sorted(path.name for path in Path(target).iterdir()))
print("tags", boto3.client("sagemaker").list_tags(ResourceArn=job["TrainingJobArn"])["Tags"])
print("region", boto3.Session().region_name, "sleep", time.sleep.__module__)
