"""MPI on two hosts by the SDK's `distribution` argument, with a metric that is read from the ranks' lines."""

import sys

import sagemaker
from sagemaker.tensorflow import TensorFlow

estimator = TensorFlow(
    base_job_name="distribution",
    entry_point="ranks.py",
    source_dir="source",
    role=sagemaker.get_execution_role(),
    framework_version="2.19",
    py_version="py312",
    instance_count=2,
    instance_type="ml.m5.large",
    hyperparameters={"broken": sys.argv[1]},
    distribution={"mpi": {"enabled": True, "processes_per_host": 2, "custom_mpi_options": "-verbose --NCCL_DEBUG=INFO"}},
    metric_definitions=[{"Name": "total", "Regex": r"mpirank:3,algo-2\]<stdout>:rank=3 .*total=([0-9.]+)"}],
)
try:
    estimator.fit()
except Exception as error:
    print("REASON", str(error))
description = estimator.latest_training_job.describe()
print("STATUS", description["TrainingJobStatus"], [metric["Value"] for metric in description.get("FinalMetricDataList", [])])
