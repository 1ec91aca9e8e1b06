"""SageMaker SDK v2 with several models: a MultiDataModel, a PipelineModel, captured data and streamed answers."""

import io
import json
import pathlib
import sys
import tarfile
import tempfile
import time

import boto3
import numpy as np
import sagemaker
from sagemaker.deserializers import JSONDeserializer
from sagemaker.model import Model
from sagemaker.model_monitor import DataCaptureConfig
from sagemaker.multidatamodel import MultiDataModel
from sagemaker.pipeline import PipelineModel
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, JSONSerializer
from sagemaker.tensorflow import TensorFlow, TensorFlowModel

IMAGE = sys.argv[1]
session = sagemaker.Session()
role = sagemaker.get_execution_role()
client = boto3.client("sagemaker")
bucket = session.default_bucket()
code = pathlib.Path("models/inference.py").read_bytes()
folder = pathlib.Path(tempfile.mkdtemp())


def archive(name, factor):
    path = folder / name
    with tarfile.open(path, "w:gz") as tar:
        for member_name, content in {"factor": str(factor).encode(), "code/inference.py": code}.items():
            member = tarfile.TarInfo(member_name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def delete(predictor):
    predictor.delete_endpoint()


# Several models behind one endpoint, one of them a TensorFlow SavedModel that a job has trained.
generator = np.random.default_rng(1)
rows = generator.normal(size=(200, 4)).astype("float32")
np.savez(folder / "data.npz", x=rows, y=(rows.sum(axis=1) > 0).astype("int64"))
(folder / "data").mkdir()
(folder / "data.npz").rename(folder / "data" / "data.npz")
inputs = session.upload_data(str(folder / "data"), key_prefix="several/data")
estimator = TensorFlow(
    entry_point="saved_model.py",
    source_dir="source",
    role=role,
    framework_version="2.19",
    py_version="py312",
    instance_count=1,
    instance_type="ml.m5.large",
    hyperparameters={"epochs": 1},
)
estimator.fit({"train": inputs}, logs=False)
expected = np.array(json.loads(session.read_s3_file(bucket, "deploy/expected.json")))
print("trained")

served = TensorFlowModel(
    model_data=estimator.model_data, role=role, framework_version="2.19", sagemaker_session=session
)
several = MultiDataModel(
    name="v2-several", model_data_prefix=f"s3://{bucket}/v2-several/", model=served, sagemaker_session=session
)
predictor = several.deploy(
    initial_instance_count=1,
    instance_type="ml.m5.large",
    serializer=JSONSerializer(),
    deserializer=JSONDeserializer(),
)
several.add_model(estimator.model_data, "trained/first.tar.gz")
several.add_model(archive("triple.tar.gz", 3))
print("models", sorted(several.list_models()))
answer = predictor.predict({"instances": rows[:5].tolist()}, {"TargetModel": "trained/first.tar.gz"})
np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-4, atol=1e-5)
print("the SavedModel predicts as it did in training")
predictor = Predictor("v2-several", session, serializer=JSONSerializer(), deserializer=JSONDeserializer())
print("triple", predictor.predict([1, 2], target_model="triple.tar.gz")["answer"])
try:
    predictor.predict([1], target_model="nothing.tar.gz")
except Exception as error:
    print("unknown model:", error.response["Error"]["Code"])
delete(predictor)

# Two containers in series.
steps = [
    Model(
        image_uri=IMAGE,
        model_data=session.upload_data(archive(f"by{factor}.tar.gz", factor), key_prefix="pipeline"),
        role=role,
        env={"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": accept},
        sagemaker_session=session,
    )
    for factor, accept in ((2, "text/csv"), (5, "application/json"))
]
pipeline = PipelineModel(models=steps, role=role, name="v2-pipeline", sagemaker_session=session)
capture = DataCaptureConfig(enable_capture=True, sampling_percentage=100, destination_s3_uri=f"s3://{bucket}/captured")
pipeline.deploy(
    initial_instance_count=1, instance_type="ml.m5.large", endpoint_name="v2-pipeline", data_capture_config=capture
)
predictor = Predictor("v2-pipeline", session, serializer=CSVSerializer(), deserializer=JSONDeserializer())
print("pipeline", predictor.predict([1, 2], inference_id="one", custom_attributes="trace=7")["answer"])
try:
    predictor.predict("no number")
except Exception as error:
    print("pipeline error:", str(error)[:120])

# An answer that comes in pieces.
streamed = Predictor("v2-pipeline", session, serializer=CSVSerializer())
pieces = list(streamed.predict_stream([1, 2]))
print("streamed", json.loads(b"".join(pieces))["answer"])

deadline = time.time() + 30
while not (captured := session.list_s3_files(bucket, "captured/v2-pipeline")) and time.time() < deadline:
    time.sleep(0.5)
event = json.loads(session.read_s3_file(bucket, captured[0]).splitlines()[0])
print("captured", json.dumps(event))
delete(predictor)
