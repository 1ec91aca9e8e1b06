"""How fast requests are decoded and checked: Clary's compiled shapes beside botocore's validator, which checks less.

Both get the body of one CreateTrainingJob as the SDK sends it. botocore's side parses the JSON and validates required
members, types and minima; Clary's side parses, decodes and checks every constraint of the model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from botocore.validate import ParamValidator

from clary.wire import routing
from clary.wire.messages import WireRequest
from clary.wire.operations import operation
from clary.wire.services import model
from measure import Measurement, report

JOB = {
    "TrainingJobName": "tensorflow-training-2026-01-01-00-00-00-000",
    "AlgorithmSpecification": {
        "TrainingImage": "763104351884.dkr.ecr.us-east-1.amazonaws.com/tensorflow-training:2.19-cpu-py312",
        "TrainingInputMode": "File",
        "EnableSageMakerMetricsTimeSeries": True,
        "MetricDefinitions": [{"Name": "accuracy", "Regex": "accuracy: ([0-9.]+)"}],
    },
    "HyperParameters": {f"parameter_{number}": f'"{number}"' for number in range(10)},
    "RoleArn": "arn:aws:iam::000000000000:role/ClaryExecutionRole",
    "InputDataConfig": [
        {
            "ChannelName": "training",
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": "S3Prefix",
                    "S3Uri": "s3://bucket/prefix",
                    "S3DataDistributionType": "FullyReplicated",
                }
            },
        }
    ],
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
    "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
    "Environment": {"STAGE": "test"},
    "Tags": [{"Key": "team", "Value": "vision"}],
}
ROUNDS = 7
CALLS = 3000


def rate(call: Callable[[], object]) -> float:
    """Calls per second of processor time, the best of several rounds."""
    best = 0.0
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(CALLS):
            call()
        best = max(best, CALLS / (time.process_time() - started))
    return best


def main() -> None:
    body = json.dumps(JOB).encode()
    headers = {"x-amz-target": "SageMaker.CreateTrainingJob", "content-type": "application/x-amz-json-1.1"}
    request = WireRequest("POST", "/", "", headers, body)
    route = routing.find(request)
    compiled = operation("sagemaker", "CreateTrainingJob", "json")
    shape = model("sagemaker").operation_model("CreateTrainingJob").input_shape
    validator = ParamValidator()
    assert not validator.validate(JOB, shape).has_errors()
    clary = rate(lambda: compiled.read(request, route))
    botocore = rate(lambda: validator.validate(json.loads(body), shape))
    report(
        "wire",
        [
            Measurement("CreateTrainingJob decoded and checked", clary, "1/s", "target", 15_000, clary >= 15_000),
            Measurement("botocore: parsed, partly checked", botocore, "1/s"),
            Measurement("Clary against botocore", clary / botocore, "×", "botocore", 1.0, clary >= botocore),
        ],
    )


if __name__ == "__main__":
    main()
