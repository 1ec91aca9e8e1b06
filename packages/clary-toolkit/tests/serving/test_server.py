"""The server answers as AWS's TensorFlow Serving container does, and stays up whatever it is sent."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_lab import MODEL

ROW = {"instances": [[1, 2]]}


def npy(array: np.ndarray) -> bytes:
    """What numpy.save writes."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_ping_and_execution_parameters(server):
    ping = server.ask("GET", "/ping")
    assert (ping.status, ping.body) == (200, b"")
    assert server.ask("GET", "/execution-parameters").json()["BatchStrategy"] == "MULTI_RECORD"


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        ({"instances": [[1, 2], [3, 4]]}, "application/json", {"predictions": [[2, 4], [6, 8]]}),
        ({"inputs": [[1, 2]]}, "application/json", {"outputs": [[2, 4]]}),
        ([1, 2], "application/json; charset=utf-8", {"predictions": [[2, 4]]}),
        ("[1, 2]\n[3, 4]\n", "application/jsonlines", {"predictions": [[2, 4], [6, 8]]}),
        ('{"x": [1, 2]}{"x": [3, 4]}', "application/jsons", {"predictions": [[2, 4], [6, 8]]}),
        ("1,2\n3,4\n", "text/csv", {"predictions": [[2, 4], [6, 8]]}),
        (
            {"signature_name": "two", "instances": [{"a": 1, "b": "x"}]},
            "application/json",
            {"predictions": [{"sum": 2, "text_bytes": {"b64": "eA=="}}]},
        ),
    ],
)
def test_every_content_type_of_awss_container_is_read(server, body, content_type, expected):
    answer = server.invoke(body, content_type, Accept="application/json")
    assert (answer.status, answer.json()) == (200, expected)
    assert answer.headers["Content-Type"] == "application/json"
    assert b"\n" not in answer.body


def test_values_that_are_no_numbers_go_in_and_out_as_tensorflow_serving_writes_them(server):
    assert b"[NaN, -Infinity]" in server.invoke('{"instances": [[NaN, -Infinity]]}').body
    rows = np.array([[np.nan, np.inf]], np.float32)
    answer = server.invoke(npy(rows), "application/x-npy", Accept="application/x-npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.body)), rows)


def test_npy_goes_in_and_out(server):
    file = io.BytesIO()
    np.save(file, np.array([[1, 2], [3, 4]], dtype=np.float64))
    answer = server.invoke(file.getvalue(), "application/x-npy", Accept="application/x-npy")
    assert answer.headers["Content-Type"] == "application/x-npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.body)), [[2, 4], [6, 8]])
    assert server.invoke(file.getvalue(), "application/x-npy").json() == {"predictions": [[2, 4], [6, 8]]}


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        ("x", "text/plain", 415, "Unsupported Media Type: text/plain"),
        ("{", "application/json", 400, "JSON Parse error"),
        ({"instances": [[1, 2, 3]]}, "application/json", 400, "Matrix size-incompatible"),
        ({"instances": [["a", "b"]]}, "application/json", 400, "is not of expected type: float"),
        ({"signature_name": "no", "instances": [1]}, "application/json", 400, 'Serving signature name: "no" not found'),
        ({"signature_name": 5, "instances": [1]}, "application/json", 400, "key must be a string value"),
        (b"\x93NUMPY rubbish", "application/x-npy", 400, "The body is no npy array"),
        ("", "text/csv", 400, "The CSV is empty"),
        ("1,2\n3\n", "text/csv", 400, "Expecting tensor size: 2 but got: 1"),
        ({"instances": [[666, 0]]}, "application/json", 500, "the number of the beast"),
        (b"[" * 100000, "application/json", 400, "JSON Parse error"),
        (b"\xff\xfe", "application/json", 400, "JSON Parse error: Invalid encoding"),
        ({"signature_name": "two", "instances": [1]}, "application/json", 400, "required as per tensorinfo_map"),
        (npy(np.zeros((1, 2), np.complex64)), "application/x-npy", 400, "complex64 does not become float32"),
        (npy(np.array([["a", "b"]])), "application/x-npy", 400, "does not become float32"),
        (npy(np.zeros((2, 3), np.float32)), "application/x-npy", 400, "Matrix size-incompatible"),
        (npy(np.zeros((2, 2), np.float32))[:-1], "application/x-npy", 400, "The body is no npy array"),
        ("one,two\n", "text/csv", 400, "is not of expected type: float"),
    ],
)
def test_a_bad_request_is_told_why_and_the_server_lives(server, body, content_type, status, message):
    answer = server.invoke(body, content_type)
    assert answer.status == status
    assert message in answer.error
    assert server.invoke(ROW).status == 200


def test_an_error_is_tensorflow_servings_to_the_letter_with_advice_beside_it_and_in_the_log(server):
    refused = server.invoke({"instances": [["]["]]})
    expects = 'The signature "serving_default" expects x: float of shape [-1, 2] (-1 is any size).'
    assert refused.json()["hint"] == expects
    assert refused.error == (
        "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
        'JSON Value: "][" Type: String is not of expected type: float'
    )
    assert server.invoke({"signature_name": "no", "instances": [1]}).error == (
        'Serving signature name: "no" not found in signature def'
    )
    assert server.ask("GET", "/v1/models/other").error == "Could not find any versions of model other"
    assert server.ask("GET", "/v1/models/model/versions/7").error == "Could not find version 7 of model model"
    advice = [
        'The signature "serving_default" expects x: float of shape [-1, 2]',
        "The model model (version 1) has: serving_default, slow, two.",
        "Served: model (versions 1).",
    ]
    assert [line for line in advice if line not in server.log] == []


def test_a_request_without_a_content_type_is_refused_as_aws_does(server):
    connection = server.connect()
    connection.putrequest("POST", "/invocations")
    connection.putheader("Content-Length", "2")
    connection.endheaders(b"{}")
    response = connection.getresponse()
    assert (response.status, b"Unsupported Media Type: Unknown" in response.read()) == (415, True)
    connection.close()


def test_custom_attributes_choose_model_version_and_method(server):
    def ask(attributes):
        return server.invoke(ROW, X_Amzn_SageMaker_Custom_Attributes=attributes)

    assert ask("tfs-model-name=model,tfs-model-version=1").status == 200
    missing = ask("tfs-model-name=other")
    assert (missing.status, missing.error) == (404, "Servable not found for request: Latest(other)")
    assert "Specific(model, 7)" in ask("tfs-model-version=7").error
    assert "When method is regress, key 'examples' is expected" in ask("tfs-method=regress").error
    assert ask("tfs-method=nonsense").status == 400


def test_tensorflow_servings_rest_interface_is_there(server):
    answer = server.ask("POST", "/v1/models/model/versions/1:predict", json.dumps(ROW))
    assert answer.body.decode() == '{\n    "predictions": [[2.0, 4.0]\n    ]\n}'
    status = server.ask("GET", "/v1/models/model").json()
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    metadata = server.ask("GET", "/v1/models/model/metadata").json()
    assert (
        metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    )
    assert server.ask("GET", "/v1/models/no").status == 404
    assert server.ask("GET", "/v1/models").error == "Missing model name in request."
    assert server.ask("DELETE", "/v1/models/model").error == "Malformed request: DELETE /v1/models/model"


def test_one_connection_carries_many_requests_in_their_order(server):
    bodies = [json.dumps({"instances": [[n, n]]}).encode() for n in range(20)]
    content = b"".join(
        b"POST /invocations HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s"
        % (len(body), b"Connection: close\r\n" if n == 19 else b"", body)
        for n, body in enumerate(bodies)
    )
    answered = server.raw(content)
    places = [answered.index(b"[[%d.0, %d.0]" % (2 * n, 2 * n)) for n in range(20)]
    assert places == sorted(places)


def test_chunked_requests_and_expect_continue_are_understood(server):
    head = b"POST /invocations HTTP/1.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    chunked = server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n[[1, \r\n3;x=y\r\n2]]\r\n0\r\n\r\n")
    assert b"[[2.0, 4.0]" in chunked
    expected = server.raw(head + b"Expect: 100-continue\r\nContent-Length: 8\r\n\r\n[[1, 2]]")
    assert expected.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"rubbish\r\n\r\n", b"400"),
        (b"GET /ping HTTP/3.0\r\n\r\n", b"505"),
        (b"POST /invocations HTTP/1.1\r\nContent-Length: abc\r\n\r\n", b"400"),
        (b"POST /invocations HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", b"400"),
        (b"POST /invocations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST /invocations HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"GET /" + b"a" * 70000, b"431"),
    ],
)
def test_what_is_no_request_is_refused(server, content, status):
    assert server.raw(content).split(b" ")[1] == status


def test_slow_and_half_open_clients_hold_up_nobody(server):
    slow = []
    for _ in range(20):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(server.socket)
        sock.sendall(b"POST /invocations HTTP/1.1\r\nContent-Length: 1000\r\n\r\n[[1")
        slow.append(sock)
    started = time.monotonic()
    assert server.invoke(ROW).status == 200
    assert time.monotonic() - started < 5
    for sock in slow:
        sock.close()


def sizes_of_calls(server):
    body = {"signature_name": "slow", "instances": [1]}
    with ThreadPoolExecutor(16) as pool:
        return [answer.json()["predictions"][0] for answer in pool.map(lambda _: server.invoke(body), range(16))]


def test_requests_that_come_together_share_calls_of_the_model(start):
    assert max(sizes_of_calls(start(MODEL, {"SAGEMAKER_TFS_ENABLE_BATCHING": "true"}))) > 1


def test_rows_that_depend_on_each_other_are_noticed_and_never_joined(start):
    server = start(MODEL, {"FAKE_SECONDS": "0.02"})
    assert set(sizes_of_calls(server)) == {1}
    assert "Requests of signature slow of model are not joined: a row's result depends on the other rows" in server.log


def test_a_full_queue_is_told_to_come_again(start):
    server = start(MODEL, {"SAGEMAKER_TFS_MAX_ENQUEUED_BATCHES": "2", "FAKE_SECONDS": "0.5"})
    body = {"signature_name": "slow", "instances": [1]}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.invoke(body), range(8)))
    refused = [answer for answer in answers if answer.status == 503]
    assert {answer.status for answer in answers} == {200, 503}
    assert refused[0].headers["Retry-After"] == "1"
    assert "The server is busy" in refused[0].error
    answer = server.invoke(ROW)
    assert answer.status == 200
    assert answer.headers["X-Clary-Concurrency"] == "128/2"  # can be worked on, are taken


def test_sigterm_lets_requests_in_progress_finish(start):
    server = start(MODEL, {"FAKE_SECONDS": "1"})
    answers = []
    body = {"signature_name": "slow", "instances": [1]}
    thread = threading.Thread(target=lambda: answers.append(server.invoke(body)))
    thread.start()
    time.sleep(0.3)  # the request is to be under way
    assert server.stop() == 0
    thread.join(20)
    assert answers[0].status == 200
    assert answers[0].headers["Connection"] == "close"
    assert "Stopped" in server.log


def test_a_missing_model_ends_the_server_with_the_reason(start):
    server = start({"model/weights.bin": b""}, ready=False)
    assert server.process.wait(30) == 1
    assert "no SavedModel bundles found!" in server.log
    assert "Traceback" not in server.log


def test_a_setting_that_is_no_number_is_named(start):
    server = start(MODEL, {"SAGEMAKER_TFS_MAX_BATCH_SIZE": "many"}, ready=False)
    assert server.process.wait(30) == 1
    assert "The variable SAGEMAKER_TFS_MAX_BATCH_SIZE is 'many'. Expected a whole number." in server.log


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CLARY_SERVING_PRECISION", "int4", "Expected float32 or bfloat16 or int8."),
        ("CLARY_SERVING_EXECUTION", "onnx", "Expected auto or tensorflow."),
    ],
)
def test_a_setting_that_cannot_be_had_is_told_with_those_that_can(start, name, value, message):
    server = start(MODEL, {name: value}, ready=False)
    assert server.process.wait(30) == 1
    assert f"The variable {name} is {value!r}. {message}" in server.log


def test_several_models_are_chosen_by_name(start):
    server = start(
        {"model/a/1/saved_model.pb": b"", "model/b/3/saved_model.pb": b"", "model/b/12/saved_model.pb": b""},
        {"SAGEMAKER_TFS_DEFAULT_MODEL_NAME": "b"},
    )
    assert server.invoke(ROW).status == 200
    status = server.ask("GET", "/v1/models/b").json()["model_version_status"]
    assert [version["version"] for version in status] == ["12", "3"]
    assert server.ask("GET", "/v1/models/b/metadata").json()["model_spec"]["version"] == "12"
    assert server.invoke(ROW, X_Amzn_SageMaker_Custom_Attributes="tfs-model-name=a").status == 200


def test_the_port_serves_too(start):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    start(MODEL, {"SAGEMAKER_BIND_TO_PORT": str(port)})
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(b"GET /ping HTTP/1.0\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_thousands_of_requests_on_one_connection_are_answered_one_after_the_other(server):
    count = 3000
    row = b"POST /invocations HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n[[1, 2]]"
    answered = server.raw((row + b"GET /ping HTTP/1.1\r\n\r\n") * count + b"GET /ping HTTP/1.0\r\n\r\n")
    assert answered.count(b"HTTP/1.1 200 OK") == 2 * count + 1
    assert answered.count(b"[[2.0, 4.0]") == count
