"""TensorFlow's own distributions on two hosts, by the SDK's `distribution` argument."""

import sys

import sagemaker
from sagemaker.tensorflow import TensorFlow

kind, version, python, source = sys.argv[1:]
estimator = TensorFlow(
    base_job_name="distribution",
    entry_point=source,
    source_dir="source",
    role=sagemaker.get_execution_role(),
    framework_version=version,
    py_version=python,
    instance_count=2,
    instance_type="ml.m5.large",
    distribution={kind: {"enabled": True}},
)
estimator.fit()
print("model", estimator.model_data)
