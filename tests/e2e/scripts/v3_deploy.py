"""SageMaker SDK v3: a SavedModel of another job to an endpoint, asked and deleted through its resources."""

import io
import json
import sys
import tarfile

import boto3
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant
from sagemaker.serve import ModelBuilder

HANDLER = '''
import json

def model_fn(model_dir):
    return 2

def transform_fn(model, data, content_type, accept):
    return json.dumps([model * number for number in json.loads(data)]), "application/json"
'''
NAME, IMAGE = "v3-deployed", sys.argv[1]
BUCKET = "sagemaker-us-east-1-000000000000"
ROLE = "arn:aws:iam::000000000000:role/ClaryExecutionRole"

archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w:gz") as tar:
    member = tarfile.TarInfo("code/inference.py")
    member.size = len(HANDLER.encode())
    tar.addfile(member, io.BytesIO(HANDLER.encode()))
boto3.client("s3").put_object(Bucket=BUCKET, Key="v3/model.tar.gz", Body=archive.getvalue())

container = ContainerDefinition(image=IMAGE, model_data_url="s3://%s/v3/model.tar.gz" % BUCKET)
model = Model.create(model_name=NAME, primary_container=container, execution_role_arn=ROLE)
variant = ProductionVariant(
    variant_name="AllTraffic", model_name=NAME, instance_type="ml.m5.large", initial_instance_count=1
)
config = EndpointConfig.create(endpoint_config_name=NAME, production_variants=[variant])
endpoint = Endpoint.create(endpoint_name=NAME, endpoint_config_name=NAME)
endpoint.wait_for_status("InService")
answer = endpoint.invoke(body=json.dumps([1, 2, 3]), content_type="application/json")
print("answered", json.loads(answer.body.read()))
print("listed", [item.endpoint_name for item in Endpoint.get_all()])
endpoint.delete()
endpoint.wait_for_delete()
config.delete()
model.delete()
print("deleted")

builder = ModelBuilder(
    image_uri=IMAGE,
    s3_model_data_url="s3://%s/v3/model.tar.gz" % BUCKET,
    role_arn=ROLE,
    instance_type="ml.m5.large",
)
builder.build(model_name="v3-built")
built = builder.deploy(endpoint_name="v3-built", initial_instance_count=1, instance_type="ml.m5.large")
print("built and answered", json.loads(built.invoke(body="[5]", content_type="application/json").body.read()))
built.delete()
built.wait_for_delete()

several = ContainerDefinition(image=IMAGE, mode="MultiModel", model_data_url="s3://%s/v3/" % BUCKET)
model = Model.create(model_name="v3-several", primary_container=several, execution_role_arn=ROLE)
variant.model_name = "v3-several"
config = EndpointConfig.create(endpoint_config_name="v3-several", production_variants=[variant])
endpoint = Endpoint.create(endpoint_name="v3-several", endpoint_config_name="v3-several")
endpoint.wait_for_status("InService")
answer = endpoint.invoke(body=json.dumps([4]), content_type="application/json", target_model="model.tar.gz")
print("one of several answered", json.loads(answer.body.read()))
endpoint.delete()
endpoint.wait_for_delete()
