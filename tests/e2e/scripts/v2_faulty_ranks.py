"""A job of two ranks on two hosts with a fault: `kill` kills one rank in mid-fit, `host` its host.

`hang` halts the rank, `stop` stops the job, `early` ends the rank before MPI has begun.
"""

import sys
import tarfile
import time

import boto3
import sagemaker
from sagemaker.tensorflow import TensorFlow

fault = sys.argv[1]
estimator = TensorFlow(
    base_job_name="faulty",
    entry_point="faulty_ranks.py",
    source_dir="source",
    role=sagemaker.get_execution_role(),
    framework_version="2.19",
    py_version="py312",
    instance_count=2,
    instance_type="ml.m5.large",
    hyperparameters={"fault": fault},
    environment={"CLARY_PARALLEL_PATIENCE": "8"} if fault == "hang" else {},
    distribution={"mpi": {"enabled": True, "processes_per_host": 1}},
)
estimator.fit(wait=False)
name = estimator.latest_training_job.name
logs, jobs = boto3.client("logs"), boto3.client("sagemaker")


def lines():
    try:
        streams = logs.describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix=name + "/")
    except logs.exceptions.ResourceNotFoundException:
        return  # no job has logged anything yet
    for stream in streams["logStreams"]:
        events = logs.get_log_events(
            logGroupName="/aws/sagemaker/TrainingJobs", logStreamName=stream["logStreamName"], startFromHead=True
        )
        yield from (event["message"] for event in events["events"])


deadline = time.monotonic() + 200
while fault == "stop" and sum("is training" in line for line in lines()) < 2:
    assert time.monotonic() < deadline, list(lines())
    time.sleep(0.5)
if fault == "stop":
    jobs.stop_training_job(TrainingJobName=name)
while (job := jobs.describe_training_job(TrainingJobName=name))["TrainingJobStatus"] in ("InProgress", "Stopping"):
    assert time.monotonic() < deadline, list(lines())
    time.sleep(0.2)
print("\n".join(lines()))
if fault == "stop":
    bucket, _, key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
    boto3.client("s3").download_file(bucket, key, "/tmp/%s.tar.gz" % name)
    with tarfile.open("/tmp/%s.tar.gz" % name) as archive:
        for member in sorted(archive.getnames()):
            if "stopped" in member:
                print(member, archive.extractfile(member).read().decode())
print("STATUS", job["TrainingJobStatus"], "REASON", job.get("FailureReason"))
