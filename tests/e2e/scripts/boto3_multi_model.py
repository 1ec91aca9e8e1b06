"""A multi-model endpoint with boto3: models that come when they are asked for."""

import io
import json
import pathlib
import sys
import tarfile
import threading
import time

import boto3
from botocore.config import Config

IMAGE = sys.argv[1]
BUCKET, PREFIX = "several", "models"
CODE = pathlib.Path("models/inference.py").read_bytes()
ROLE = "arn:aws:iam::000000000000:role/SageMakerRole"

s3 = boto3.client("s3")
sagemaker = boto3.client("sagemaker")
runtime = boto3.client("sagemaker-runtime", config=Config(retries={"max_attempts": 0}, max_pool_connections=20))
found = {}


def put_model(key, factor, code=CODE, **more):
    archive = io.BytesIO()
    files = {name: str(text).encode() for name, text in {"factor": factor, **more}.items()}
    if code:
        files["code/inference.py"] = code
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{key}", Body=archive.getvalue())


def ask(model, rows=(1, 2), endpoint="several", **members):
    response = runtime.invoke_endpoint(
        EndpointName=endpoint,
        TargetModel=model,
        ContentType="application/json",
        Body=json.dumps(rows),
        **members,
    )
    return json.loads(response["Body"].read())["answer"]


def refused(model, **members):
    try:
        ask(model, **members)
    except runtime.exceptions.ClientError as error:
        told = error.response
        return [told["Error"]["Code"], told["Error"]["Message"], told.get("OriginalStatusCode")]
    raise AssertionError("it was answered")


def deploy(name, cache="Enabled", **environment):
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={
            "Image": IMAGE,
            "Mode": "MultiModel",
            "Environment": environment,
            "ModelDataUrl": f"s3://{BUCKET}/{PREFIX}/",
            "MultiModelConfig": {"ModelCacheSetting": cache},
        },
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
        ],
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 1})


s3.create_bucket(Bucket=BUCKET)
for key, factor in {"two.tar.gz": 2, "deep/er/three.tar.gz": 3, "broken.tar.gz": "broken"}.items():
    put_model(key, factor)
s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/text.tar.gz", Body=b"no archive")
began = time.time()
deploy("several")
print("deployed in %.1f s" % (time.time() - began))

found["two"] = ask("two.tar.gz")
found["deep"] = ask("deep/er/three.tar.gz")
put_model("later.tar.gz", 5)
found["later"] = ask("later.tar.gz")
found["missing"] = refused("missing.tar.gz")
found["outside"] = refused("../other/two.tar.gz")
found["broken"] = refused("broken.tar.gz")
found["no archive"] = refused("text.tar.gz")
try:
    runtime.invoke_endpoint(EndpointName="several", Body=b"[1]")
except runtime.exceptions.ClientError as error:
    found["unnamed"] = [error.response["Error"]["Code"], error.response["Error"]["Message"]]
put_model("two.tar.gz", 20)
found["changed while loaded"] = ask("two.tar.gz")
s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/later.tar.gz")
found["deleted while loaded"] = ask("later.tar.gz")

answers = []
put_model("race.tar.gz", 7)
racing = [threading.Thread(target=lambda: answers.append(ask("race.tar.gz"))) for _ in range(8)]
for thread in racing:
    thread.start()
for thread in racing:
    thread.join()
found["race"] = answers

deploy("forgetful", cache="Disabled")
found["forgetful"] = [ask("two.tar.gz", endpoint="forgetful")]
put_model("two.tar.gz", 200)
found["forgetful"].append(ask("two.tar.gz", endpoint="forgetful"))
s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/two.tar.gz")
found["forgotten"] = refused("two.tar.gz", endpoint="forgetful")

# More models than the memory holds: 50 MB each, and 700 of 1000 MB may be used.
s3.put_object(Bucket=BUCKET, Key="shared/inference.py", Body=CODE)
deploy(
    "narrow",
    CLARY_MEMORY_BYTES="1000000000",
    SAGEMAKER_MULTI_MODEL_UNIVERSAL_BUCKET=BUCKET,
    SAGEMAKER_MULTI_MODEL_UNIVERSAL_PREFIX="shared",
)
for number in range(20):
    put_model(f"big/{number}.tar.gz", number, code=b"", ballast=50_000_000)
found["narrow"] = [ask(f"big/{number}.tar.gz", (1,), endpoint="narrow") for number in (*range(20), *range(5))]

cloudwatch = boto3.client("cloudwatch")


def metric(name, namespace="AWS/SageMaker", statistic="Sum", endpoint="several"):
    import datetime

    now = datetime.datetime.now(datetime.timezone.utc)
    points = cloudwatch.get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": "AllTraffic"}],
        StartTime=now - datetime.timedelta(minutes=30),
        EndTime=now + datetime.timedelta(minutes=5),
        Period=3600,
        Statistics=[statistic, "SampleCount"],
    )["Datapoints"]
    return [sum(point[statistic] for point in points), sum(point["SampleCount"] for point in points)]


deadline = time.time() + 30
while time.time() < deadline and metric("ModelLoadingWaitTime")[1] < 13:
    time.sleep(0.5)
found["ModelCacheHit"] = metric("ModelCacheHit")
found["ModelLoadingWaitTime"] = metric("ModelLoadingWaitTime")
found["ModelLoadingTime"] = metric("ModelLoadingTime")
found["ModelDownloadingTime"] = metric("ModelDownloadingTime")
found["LoadedModelCount"] = metric("LoadedModelCount", "/aws/sagemaker/Endpoints", "Maximum")
found["unloaded"] = metric("ModelUnloadingTime", endpoint="narrow")[1]
found["most loaded"] = metric("LoadedModelCount", "/aws/sagemaker/Endpoints", "Maximum", endpoint="narrow")[0]
for name in ("several", "forgetful", "narrow"):
    sagemaker.delete_endpoint(EndpointName=name)
print(json.dumps(found))
