"""Run in a serving environment: asks a server by TensorFlow Serving's own stubs and prints what came back as JSON.

Usage: grpc_client.py PORT.
"""

from __future__ import annotations

import json
import sys

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

channel = grpc.insecure_channel(f"localhost:{sys.argv[1]}")
stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
said = {}


def predict(model, inputs, signature="serving_default", outputs=(), version=None):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    request.output_filter.extend(outputs)
    return stub.Predict(request, timeout=30)


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    raise AssertionError("It should have failed.")


x = np.arange(8, dtype=np.float32).reshape(2, 4)
answer = predict("dense", {"x": x})
(output,) = answer.outputs.values()
said["predict"] = {
    "float_val": list(output.float_val),
    "shape": list(tf.make_ndarray(output).shape),
    "name": answer.model_spec.name,
    "version": answer.model_spec.version.value,
}
a, b = np.ones((2, 3), np.float32), np.array([3, -4], np.int64)
answer = predict("several", {"a": a, "b": b})
said["several"] = {name: tf.make_ndarray(value).tolist() for name, value in answer.outputs.items()}
said["filtered"] = sorted(predict("several", {"a": a, "b": b}, outputs=["double"]).outputs)
answer = predict("words", {"text": ["one", "two"]})
said["words"] = [value.decode() for value in answer.outputs["upper"].string_val]

example = tf.train.Example()
example.features.feature["age"].float_list.value.append(30.0)
request = classification_pb2.ClassificationRequest()
request.model_spec.name = "judge"
request.input.example_list.examples.append(example)
said["classify"] = MessageToDict(stub.Classify(request, timeout=30).result)
request = regression_pb2.RegressionRequest()
request.model_spec.name = "judge"
request.model_spec.signature_name = "doubled"
request.input.example_list_with_context.context.CopyFrom(example)
request.input.example_list_with_context.examples.append(tf.train.Example())
said["regress"] = MessageToDict(stub.Regress(request, timeout=30).result)
said["wrong method"] = failure(
    lambda: stub.Classify(
        classification_pb2.ClassificationRequest(model_spec=request.model_spec, input=request.input), timeout=30
    )
)

request = get_model_metadata_pb2.GetModelMetadataRequest()
request.model_spec.name = "convolution"
request.metadata_field.append("signature_def")
described = get_model_metadata_pb2.SignatureDefMap()
stub.GetModelMetadata(request, timeout=30).metadata["signature_def"].Unpack(described)
said["metadata"] = MessageToDict(described.signature_def["serving_default"].inputs["image"])

request = get_model_status_pb2.GetModelStatusRequest()
request.model_spec.name = "convolution"
said["status"] = MessageToDict(model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=30))

said["unknown model"] = failure(lambda: predict("nobody", {"x": x}))
said["unknown version"] = failure(lambda: predict("dense", {"x": x}, version=9))
said["unknown signature"] = failure(lambda: predict("dense", {"x": x}, "other"))
said["unknown output"] = failure(lambda: predict("several", {"a": a, "b": b}, outputs=["triple"]))
said["wrong input"] = failure(lambda: predict("dense", {"z": x}))
said["wrong type"] = failure(lambda: predict("dense", {"x": x.astype(np.float64)}))
said["wrong shape"] = failure(lambda: predict("dense", {"x": x[:, :3]}))
said["large"] = list(
    tf.make_ndarray(
        next(iter(predict("convolution", {"image": np.zeros((4000, 12, 12, 3), np.float32)}).outputs.values()))
    ).shape
)
print(json.dumps(said))
