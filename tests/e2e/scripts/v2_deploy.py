"""A SageMaker SDK v2 script that trains, deploys, predicts, updates and cleans up, as notebooks do."""

import json
import tempfile
import time
from pathlib import Path

import boto3
import numpy as np
import sagemaker
from sagemaker.deserializers import JSONDeserializer
from sagemaker.predictor import Predictor
from sagemaker.serializers import JSONSerializer
from sagemaker.tensorflow import TensorFlow, TensorFlowModel, TensorFlowPredictor

session = sagemaker.Session()
role = sagemaker.get_execution_role()
client = boto3.client("sagemaker")

folder = Path(tempfile.mkdtemp())
generator = np.random.default_rng(1)
rows = generator.normal(size=(200, 4)).astype("float32")
np.savez(folder / "data.npz", x=rows, y=(rows.sum(axis=1) > 0).astype("int64"))
inputs = session.upload_data(str(folder), key_prefix="deploy/data")
estimator = TensorFlow(
    entry_point="saved_model.py",
    source_dir="source",
    role=role,
    framework_version="2.19",
    py_version="py312",
    instance_count=1,
    instance_type="ml.m5.large",
    hyperparameters={"epochs": 3},
)
estimator.fit({"train": inputs}, logs=False)

began = time.time()
predictor = estimator.deploy(initial_instance_count=1, instance_type="ml.m5.large")
print("deployed in %.1f s" % (time.time() - began))
assert isinstance(predictor, TensorFlowPredictor)
expected = np.array(json.loads(session.read_s3_file(session.default_bucket(), "deploy/expected.json")))
answer = predictor.predict({"instances": rows[:5].tolist()})
assert list(answer) == ["predictions"], answer
np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-4, atol=1e-5)
np.testing.assert_allclose(predictor.predict(rows[:5])["predictions"], expected, rtol=1e-4, atol=1e-5)
print("predicted as the training job did")

other = Predictor(predictor.endpoint_name, serializer=JSONSerializer(), deserializer=JSONDeserializer())
np.testing.assert_allclose(other.predict(rows[:5].tolist())["predictions"], expected, rtol=1e-4, atol=1e-5)
try:
    predictor.predict({"instances": [[1.0, 2.0]]})
except Exception as error:
    print("wrong shape:", type(error).__name__, str(error)[:300])

second = TensorFlowModel(
    model_data=estimator.model_data,
    role=role,
    framework_version="2.19",
    entry_point="inference.py",
    source_dir="serving",
    sagemaker_session=session,
)
second.create(instance_type="ml.m5.large")
predictor.update_endpoint(model_name=second.name, initial_instance_count=1, instance_type="ml.m5.large")
answer = predictor.predict({"instances": rows[:5].tolist()})
assert answer["handler"] == "inference.py", answer
np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-4, atol=1e-5)
print("updated to a model with a handler")

endpoint = predictor.endpoint_name
arn = client.describe_endpoint(EndpointName=endpoint)["EndpointArn"]
predictor.delete_model()
predictor.delete_endpoint()
client.get_waiter("endpoint_deleted").wait(EndpointName=endpoint)
try:
    client.describe_endpoint(EndpointName=endpoint)
except client.exceptions.ClientError as error:
    print("deleted:", error.response["Error"]["Code"], error.response["Error"]["Message"])
