"""A SageMaker SDK v3 script: ModelTrainer with a source folder, a channel and hyperparameters."""

import logging
import tempfile
import time
from pathlib import Path

import numpy as np
from sagemaker.core import image_uris
from sagemaker.core.helper.session_helper import Session, get_execution_role
from sagemaker.core.training.configs import Compute, InputData, OutputDataConfig, SourceCode
from sagemaker.train import ModelTrainer

logging.basicConfig(level=logging.INFO, format="%(message)s")  # v3 shows a job's log only so
session = Session()
bucket = session.default_bucket()
print("role", get_execution_role(), "bucket", bucket)

folder = Path(tempfile.mkdtemp())
images = np.random.default_rng(1).normal(size=(200, 4)).astype("float32")
np.savez(folder / "data.npz", x=images, y=(images.sum(axis=1) > 0).astype("int64"))
inputs = session.upload_data(str(folder), bucket=bucket, key_prefix="v3/data")

image = image_uris.retrieve(
    "tensorflow",
    region="us-east-1",
    version="2.19",
    py_version="py312",
    instance_type="ml.m5.large",
    image_scope="training",
)
trainer = ModelTrainer(
    training_image=image,
    source_code=SourceCode(source_dir="source", entry_script="keras_small.py"),
    compute=Compute(instance_type="ml.m5.large", instance_count=1),
    hyperparameters={"epochs": 3, "note": "two words", "learning-rate": 0.05},
    environment={"COLOUR": "green"},
    output_data_config=OutputDataConfig(s3_output_path="s3://%s/v3/output" % bucket),
    base_job_name="v3-trainer",
)
trainer.train(input_data_config=[InputData(channel_name="train", data_source=inputs)], wait=True, logs=True)
returned = time.time()

job = trainer._latest_training_job
job.refresh()
print("status", job.training_job_status)
print("returned %.2f s after the end" % (returned - job.training_end_time.timestamp()))
print("model", job.model_artifacts.s3_model_artifacts)
