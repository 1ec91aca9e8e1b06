"""Has SDK v3's ModelTrainer prepare training jobs, up to the request; run in an environment that has the SDK.

Arguments: the folder of the user's code. Printed: one JSON object, by name the request of each job.
"""

import importlib.util
import json
import sys
from pathlib import Path

# The SDK asks STS for the account at a host of its own making: the redirect under test brings it here.
_path = Path(__file__).parents[2] / "src" / "clary_toolkit" / "sts_redirect.py"
_spec = importlib.util.spec_from_file_location("sts_redirect", _path)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
_module.install()

from sagemaker.core.training.configs import Compute, SourceCode  # noqa: E402
from sagemaker.train import ModelTrainer  # noqa: E402

ROLE = "arn:aws:iam::000000000000:role/ClaryExecutionRole"
HYPERPARAMETERS = {"epochs": 5, "learning-rate": 0.001, "name": "a b", "flag": True, "betas": {"first": 0.9}}


def request_for(name, source_code):
    # The SDK adds the second to the name and uploads below it: jobs of one second need names of their own.
    trainer = ModelTrainer(
        training_image="000000000000.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.15-cpu-py310",
        source_code=source_code,
        compute=Compute(instance_type="ml.c5.xlarge", instance_count=1),
        hyperparameters=HYPERPARAMETERS,
        role=ROLE,
        base_job_name=f"v3-{name}",
    )
    return trainer._create_training_job_args(boto3=True)


def main():
    folder = sys.argv[1]
    jobs = {
        "script": SourceCode(source_dir=folder, entry_script="train.py", requirements="requirements.txt"),
        "shell": SourceCode(source_dir=folder, entry_script="run.sh"),
        "command": SourceCode(source_dir=folder, command="python train.py --custom 'a  b' $SM_CURRENT_HOST"),
        "failing": SourceCode(source_dir=folder, entry_script="fail.py"),
    }
    print(json.dumps({name: request_for(name, source_code) for name, source_code in jobs.items()}))


main()
