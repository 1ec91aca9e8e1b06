"""Horovod on two hosts, as the SDK's documentation shows it."""

import sagemaker
from sagemaker.tensorflow import TensorFlow

estimator = TensorFlow(
    base_job_name="distribution",
    entry_point="horovod_dense.py",
    source_dir="source",
    role=sagemaker.get_execution_role(),
    framework_version="2.19",
    py_version="py312",
    instance_count=2,
    instance_type="ml.m5.large",
    hyperparameters={"epochs": 2},
    distribution={"mpi": {"enabled": True, "processes_per_host": 1}},
)
estimator.fit()
print("model", estimator.model_data)
