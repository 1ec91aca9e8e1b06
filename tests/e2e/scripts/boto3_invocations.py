"""InvokeEndpoint and its streaming sibling in all their members, with boto3: variants, shadows, containers, errors."""

import io
import json
import pathlib
import sys
import tarfile
import time

import boto3
from botocore.config import Config

IMAGE = sys.argv[1]
ROLE = "arn:aws:iam::000000000000:role/SageMakerRole"
s3 = boto3.client("s3")
sagemaker = boto3.client("sagemaker")
runtime = boto3.client("sagemaker-runtime", config=Config(retries={"max_attempts": 0}))
logs = boto3.client("logs")
found = {}


def container(name, **members):
    return {
        "Image": IMAGE,
        "ModelDataUrl": "s3://words/model.tar.gz",
        "Environment": {"NAME": name, "SAGEMAKER_PROGRAM": "words.py"},
        **members,
    }


def variant(name, model, weight=1.0):
    return {
        "VariantName": name,
        "ModelName": model,
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
        "InitialVariantWeight": weight,
    }


def in_service(name):
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 1})


def invoke(body="hello", endpoint="words", **members):
    return runtime.invoke_endpoint(EndpointName=endpoint, Body=body, **{"ContentType": "text/plain", **members})


def said(*arguments, **members):
    return json.loads(invoke(*arguments, **members)["Body"].read())


def refused(*arguments, **members):
    try:
        invoke(*arguments, **members)
    except runtime.exceptions.ClientError as error:
        told = error.response
        own = {name: told[name] for name in ("OriginalStatusCode", "OriginalMessage", "LogStreamArn") if name in told}
        return {"code": told["Error"]["Code"], "message": told["Error"]["Message"], **own}
    raise AssertionError("it was answered")


def streamed(body, **members):
    response = runtime.invoke_endpoint_with_response_stream(EndpointName="words", Body=body, **members)
    parts, times = [], []
    try:
        for event in response["Body"]:
            parts.append(event["PayloadPart"]["Bytes"].decode())
            times.append(time.time())
    except runtime.exceptions.ClientError as error:
        return {"parts": parts, "code": error.response["Error"]["Code"]}
    return {"parts": parts, "spread": times[-1] - times[0], "type": response["ContentType"]}


archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w:gz") as tar:
    content = pathlib.Path("models/words.py").read_bytes()
    member = tarfile.TarInfo("code/words.py")
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
s3.create_bucket(Bucket="words")
s3.put_object(Bucket="words", Key="model.tar.gz", Body=archive.getvalue())
for name in ("first", "second", "shadow"):
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container(name))
sagemaker.create_model(
    ModelName="direct",
    ExecutionRoleArn=ROLE,
    Containers=[container("left", ContainerHostname="left"), container("right", ContainerHostname="right")],
    InferenceExecutionConfig={"Mode": "Direct"},
)
sagemaker.create_endpoint_config(
    EndpointConfigName="words", ProductionVariants=[variant("First", "first", 1), variant("Second", "second", 1)]
)
sagemaker.create_endpoint_config(EndpointConfigName="direct", ProductionVariants=[variant("AllTraffic", "direct")])
sagemaker.create_endpoint_config(
    EndpointConfigName="shadowed",
    ProductionVariants=[variant("Real", "first")],
    ShadowProductionVariants=[variant("Shadow", "shadow")],
)
endpoints = ("words", "direct", "shadowed")
for name in endpoints:
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
for name in endpoints:
    in_service(name)

found["variants"] = sorted({invoke()["InvokedProductionVariant"] for _ in range(60)})
found["target variant"] = [said(TargetVariant=name)["model"] for name in ("First", "Second")]
answer = invoke(
    "hello",
    Accept="text/x-thing",
    ContentType="text/x-own",
    CustomAttributes="trace=1",
    InferenceId="id-1",
    TargetVariant="First",
)
found["answer"] = {**json.loads(answer["Body"].read()), "answer type": answer["ContentType"]}
found["no variant"] = refused(TargetVariant="Third")
found["no endpoint"] = refused(endpoint="nowhere")
found["raise"] = refused("raise", TargetVariant="First")
found["refuse"] = refused("refuse", TargetVariant="First")
found["exit"] = refused("exit", TargetVariant="Second")
found["after exit"] = said(TargetVariant="Second")["model"]
found["large"] = refused("x" * 6_291_457)["code"]
found["target model"] = refused(TargetModel="m.tar.gz")
found["stream"] = streamed("stream 10", ContentType="text/plain")
found["stream broken"] = streamed("break", ContentType="text/plain", TargetVariant="First")
try:
    runtime.invoke_endpoint_with_response_stream(EndpointName="words", Body="refuse", ContentType="text/plain")
except runtime.exceptions.ClientError as error:
    found["stream refused"] = [error.response["Error"]["Code"], error.response["OriginalStatusCode"]]
found["whole stream"] = invoke("stream 2")["Body"].read().decode()

_, _, _, _, _, _, group, _, stream = found["raise"]["LogStreamArn"].split(":")
found["log"] = [event["message"] for event in logs.get_log_events(logGroupName=group, logStreamName=stream)["events"]]

found["direct"] = [said(endpoint="direct", TargetContainerHostname=name)["model"] for name in ("left", "right")]
found["direct unnamed"] = refused(endpoint="direct")
found["direct unknown"] = refused(endpoint="direct", TargetContainerHostname="middle")
found["direct error"] = refused("raise", endpoint="direct", TargetContainerHostname="right")

found["shadowed"] = sorted({said("sleep 0.0", endpoint="shadowed")["model"] for _ in range(10)})
cloudwatch = boto3.client("cloudwatch")


def invocations(endpoint, name):
    import datetime

    now = datetime.datetime.now(datetime.timezone.utc)
    points = cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="ModelLatency",
        Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": name}],
        StartTime=now - datetime.timedelta(minutes=30),
        EndTime=now + datetime.timedelta(minutes=5),
        Period=3600,
        Statistics=["SampleCount"],
    )["Datapoints"]
    return sum(point["SampleCount"] for point in points)


deadline = time.time() + 30
while invocations("shadowed", "Shadow") < 10 and time.time() < deadline:
    time.sleep(0.5)
found["latencies"] = [invocations("shadowed", name) for name in ("Real", "Shadow")]

# An update whose new fleet gets half of the requests first.
sagemaker.create_endpoint_config(EndpointConfigName="after", ProductionVariants=[variant("Real", "second")])
routing = {
    "Type": "CANARY",
    "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50},
    "WaitIntervalInSeconds": 3,
}
policy = {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": 0}
sagemaker.update_endpoint(
    EndpointName="shadowed", EndpointConfigName="after", DeploymentConfig={"BlueGreenUpdatePolicy": policy}
)
while not (seen := {said(endpoint="shadowed")["model"] for _ in range(20)}) >= {"second"}:
    pass
found["canary"] = sorted(seen)
in_service("shadowed")
found["after the canary"] = sorted({said(endpoint="shadowed")["model"] for _ in range(20)})
for name in endpoints:
    sagemaker.delete_endpoint(EndpointName=name)
print(json.dumps(found))
