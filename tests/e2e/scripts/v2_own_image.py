"""SageMaker SDK v2 with an image of the user's own: the generic Estimator trains it, deploys it and predicts."""

import sys
import tempfile
from pathlib import Path

import boto3
import sagemaker
from sagemaker.deserializers import BytesDeserializer
from sagemaker.estimator import Estimator
from sagemaker.serializers import IdentitySerializer

session = sagemaker.Session()
folder = Path(tempfile.mkdtemp())
(folder / "name").write_text("flowers")
estimator = Estimator(
    image_uri=sys.argv[1],
    role=sagemaker.get_execution_role(),
    instance_count=1,
    instance_type="ml.m5.large",
    hyperparameters={"epochs": 3},
    metric_definitions=[{"Name": "loss", "Regex": "loss=([0-9.]+);"}],
)
estimator.fit({"training": session.upload_data(str(folder), key_prefix="own/data")})
print("metrics:", estimator.training_job_analytics.dataframe().value.tolist())

predictor = estimator.deploy(
    initial_instance_count=1,
    instance_type="ml.m5.large",
    serializer=IdentitySerializer("text/plain"),
    deserializer=BytesDeserializer(),
)
print("predicted:", predictor.predict(b"rose").decode())
predictor.delete_model()
predictor.delete_endpoint()
boto3.client("sagemaker").get_waiter("endpoint_deleted").wait(
    EndpointName=predictor.endpoint_name, WaiterConfig={"Delay": 1}
)
