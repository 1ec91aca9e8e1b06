"""gRPC clients that use TensorFlow Serving's own stubs are answered, inside of handlers and outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from serving_lab import RunningServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
_HERE = Path(__file__).parent

# As handlers are written for AWS's container.
_HANDLER = """
import json
import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def handler(data, context):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(f"localhost:{context.grpc_port}"))
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "dense"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(json.loads(data.read()), dtype=tf.float32))
    (own,) = stub.Predict(request, 20).outputs.values()
    (shared,) = prediction_service_pb2_grpc.PredictionServiceStub(context.channel).Predict(request, 20).outputs.values()
    return json.dumps({"own": list(own.float_val), "shared": list(shared.float_val)}), "application/json"
"""


def port_of(server: RunningServer) -> str:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = re.search(r"gRPC on 127\.0\.0\.1:(\d+)", server.log)
        if found:
            return found.group(1)
        time.sleep(0.02)
    raise AssertionError(server.log)


@pytest.fixture(scope="module")
def said(environment, zoo) -> dict:
    """What the client was answered."""
    variables = {**os.environ, **environment.variables, "PYTHONPATH": str(environment.packages)}
    command = [environment.python, _HERE / "grpc_client.py", port_of(zoo)]
    asked = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


def test_predict_gives_values_in_the_fields_that_clients_read(environment, said):
    assert (said["predict"]["name"], said["predict"]["version"], said["predict"]["shape"]) == ("dense", 1, [2, 3])
    assert len(said["predict"]["float_val"]) == 6


def test_several_inputs_outputs_and_strings_come_through(said):
    assert said["several"]["double"] == [6, -8]
    assert said["several"]["positive"] == [True, False]
    assert np.array(said["several"]["product"]).shape == (2, 2)
    assert said["filtered"] == ["double"]
    assert said["words"] == ["ONE", "TWO"]


def test_classify_and_regress_take_examples_with_or_without_a_context(said):
    (classes,) = said["classify"]["classifications"]
    assert [each["label"] for each in classes["classes"]] == ["old", "young"]
    assert classes["classes"][0]["score"] == pytest.approx(0.3)
    assert said["regress"] == {"regressions": [{"value": 60.0}]}
    assert said["wrong method"][0] == "INVALID_ARGUMENT"
    assert "method_name to be tensorflow/serving/classify" in said["wrong method"][1]


def test_metadata_and_status_describe_the_model(said):
    assert said["metadata"]["dtype"] == "DT_FLOAT"
    assert [each["size"] for each in said["metadata"]["tensorShape"]["dim"]] == ["-1", "12", "12", "3"]
    (version,) = said["status"]["model_version_status"]
    assert (version["version"], version["state"]) == ("7", "AVAILABLE")


@pytest.mark.parametrize(
    ("case", "code", "message"),
    [
        ("unknown model", "NOT_FOUND", "Servable not found for request: Latest(nobody)"),
        ("unknown version", "NOT_FOUND", "Servable not found for request: Specific(dense, 9)"),
        ("unknown signature", "INVALID_ARGUMENT", 'Serving signature name: "other" not found in signature def'),
        ("unknown output", "INVALID_ARGUMENT", "output tensor alias not found in signature: triple"),
        ("wrong input", "INVALID_ARGUMENT", "Sent extra: {z}. Missing but required: {x}."),
        ("wrong type", "INVALID_ARGUMENT", "Expects x to be float but double is provided"),
        ("wrong shape", "INVALID_ARGUMENT", "Matrix size-incompatible"),
    ],
)
def test_a_mistake_has_tensorflow_servings_code_and_says_what_is_expected(said, case, code, message):
    assert said[case][0] == code
    assert message in said[case][1]


def test_messages_may_have_more_than_grpcs_usual_four_megabytes(said):
    assert said["large"] == [4000, 10]


def test_a_handler_reaches_the_model_by_its_contexts_port_and_channel_where_9000_is_taken(environment):
    shutil.copytree(environment.models / "zoo" / "model" / "dense", environment.models / "handled" / "model" / "dense")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = environment.serve(
            "handled", {"model/code/inference.py": _HANDLER}, CLARY_SERVING_GRPC_PORT=str(taken.getsockname()[1])
        )
        try:
            answer = server.invoke([[0, 1, 2, 3]])
            assert answer.status == 200, answer.body
            assert len(answer.json()["own"]) == 3
            assert answer.json()["own"] == pytest.approx(answer.json()["shared"], rel=1e-5)
            assert "is not free: gRPC has another" in server.log
        finally:
            server.stop()
