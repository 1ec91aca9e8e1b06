"""A training job with boto3 alone."""

import io
import json
import tarfile
import time
import urllib.request

import boto3
from botocore.exceptions import ClientError

BUCKET = "by-hand"
ROLE = "arn:aws:iam::123456789012:role/service-role/MyRole"
IMAGE = "python:3.12"
SCRIPT = """
import os, sys
print("argument", sys.argv[sys.argv.index("--answer") + 1])
folder = os.environ["SM_CHANNEL_DATA"]
print(", ".join(open(os.path.join(folder, name)).read() for name in sorted(os.listdir(folder))))
open(os.path.join(os.environ["SM_MODEL_DIR"], "answer.txt"), "w").write("42")
"""

s3, sagemaker, logs = boto3.client("s3"), boto3.client("sagemaker"), boto3.client("logs")
s3.create_bucket(Bucket=BUCKET)
for name, text in (("a.txt", "one"), ("b.txt", "two")):
    s3.put_object(Bucket=BUCKET, Key="data/" + name, Body=text)
archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w:gz") as tar:
    entry = tarfile.TarInfo("train.py")
    entry.size = len(SCRIPT)
    tar.addfile(entry, io.BytesIO(SCRIPT.encode()))
s3.put_object(Bucket=BUCKET, Key="code/sourcedir.tar.gz", Body=archive.getvalue())


def request(name, bucket=BUCKET):
    return {
        "TrainingJobName": name,
        "RoleArn": ROLE,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "HyperParameters": {
            "sagemaker_program": "train.py",
            "sagemaker_submit_directory": "s3://%s/code/sourcedir.tar.gz" % BUCKET,
            "answer": "7",
        },
        "InputDataConfig": [
            {
                "ChannelName": "data",
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://%s/data/" % bucket}},
            }
        ],
        "OutputDataConfig": {"S3OutputPath": "s3://%s/models" % BUCKET},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 300},
    }


sagemaker.create_training_job(**request("by-hand-1"))
sagemaker.get_waiter("training_job_completed_or_stopped").wait(TrainingJobName="by-hand-1")
returned = time.time()
job = sagemaker.describe_training_job(TrainingJobName="by-hand-1")

stream = logs.describe_log_streams(logGroupName="/aws/sagemaker/TrainingJobs", logStreamNamePrefix="by-hand-1/")
events = logs.get_log_events(
    logGroupName="/aws/sagemaker/TrainingJobs",
    logStreamName=stream["logStreams"][0]["logStreamName"],
    startFromHead=True,
)["events"]
key = job["ModelArtifacts"]["S3ModelArtifacts"].split("/", 3)[3]
stored = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
with tarfile.open(fileobj=io.BytesIO(stored)) as tar:
    names = [name for name in tar.getnames() if name != "."]
    answer = tar.extractfile(names[0]).read().decode()
address = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key})
presigned = urllib.request.urlopen(address).read()


def error_of(call):
    try:
        call()
    except ClientError as error:
        return [error.response["Error"]["Code"], error.response["Error"]["Message"]]
    return None


missing = error_of(lambda: sagemaker.create_training_job(**request("by-hand-2", "no-such-bucket")))
if missing is None:  # AWS itself tells some of this only when the job runs
    sagemaker.get_waiter("training_job_completed_or_stopped").wait(TrainingJobName="by-hand-2")
    missing = ["", sagemaker.describe_training_job(TrainingJobName="by-hand-2").get("FailureReason", "")]
print(
    json.dumps(
        {
            "status": job["TrainingJobStatus"],
            "secondary": [change["Status"] for change in job["SecondaryStatusTransitions"]],
            "late": returned - job["TrainingEndTime"].timestamp(),
            "log": [event["message"] for event in events],
            "artifact": [name.replace("./", "") for name in names],
            "answer": answer,
            "stored_bytes": len(stored),
            "presigned_bytes": len(presigned),
            "unknown": error_of(lambda: sagemaker.describe_training_job(TrainingJobName="nobody")),
            "missing_bucket": missing[1],
        }
    )
)
