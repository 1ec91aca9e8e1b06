"""What a user sees of a script that fails."""

import sagemaker
from sagemaker.exceptions import UnexpectedStatusException
from sagemaker.tensorflow import TensorFlow

estimator = TensorFlow(
    entry_point="source/failing.py",
    role=sagemaker.get_execution_role(),
    framework_version="2.19",
    py_version="py312",
    instance_count=1,
    instance_type="ml.m5.large",
)
try:
    estimator.fit()
except UnexpectedStatusException as error:
    print("raised", type(error).__name__, error)
