"""SageMaker's model parallel library on two hosts, by the SDK's `distribution` argument."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import sagemaker
from sagemaker.tensorflow import TensorFlow

session = sagemaker.Session()
folder = Path(tempfile.mkdtemp())
generator = np.random.default_rng(1)
labels = generator.integers(0, 4, 256).astype("uint8")
patterns = generator.integers(0, 200, (4, 12, 12))
images = (patterns[labels] + generator.integers(0, 55, (256, 12, 12))).astype("uint8")
np.savez(folder / "digits.npz", x=images, y=labels)
training = session.upload_data(str(folder), key_prefix="digits")

estimator = TensorFlow(
    base_job_name="model-parallel",
    entry_point="model_parallel.py",
    source_dir="source",
    role=sagemaker.get_execution_role(),
    framework_version="2.19",
    py_version="py312",
    instance_count=2,
    instance_type="ml.m5.large",
    checkpoint_s3_uri="s3://%s/model-parallel-checkpoints" % session.default_bucket(),
    distribution={
        "smdistributed": {"modelparallel": {"enabled": True, "parameters": json.loads(sys.argv[1])}},
        "mpi": {
            "enabled": True,
            "processes_per_host": 2,
            "custom_mpi_options": "-verbose -x orte_base_help_aggregate=0 ",
        },
    },
    metric_definitions=[{"Name": "accuracy", "Regex": r"mpirank:0,.*accuracy=([0-9.]+)"}],
)
try:
    estimator.fit({"training": training})
except Exception as error:
    print("REASON", str(error))
description = estimator.latest_training_job.describe()
print("STATUS", description["TrainingJobStatus"], [metric["Value"] for metric in description.get("FinalMetricDataList", [])])
checkpoints = session.list_s3_files(session.default_bucket(), "model-parallel-checkpoints")
print("CHECKPOINTS", sorted({name.rsplit("/", 1)[-1] for name in checkpoints}))
if description["TrainingJobStatus"] == "Completed":
    print("model", estimator.model_data)
