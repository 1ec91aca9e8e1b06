"""sagemaker-inference's functions are called as its toolkit calls them."""

from __future__ import annotations

import http.client
import io

import numpy as np
import pytest
from serving_lab import MODEL

OWN = """
import json
def model_fn(model_dir):
    with open(model_dir + "/factor") as file:
        return int(file.read())
def input_fn(data, content_type):
    assert isinstance(data, str if content_type in ("application/json", "text/csv") else bytes)
    return json.loads(data)
def predict_fn(data, model, context):
    if data == "raise":
        raise ValueError("no such thing")
    if data == "teapot":
        error = Exception(); error.status_code = 418; error.message = "short and stout"
        raise error
    context.set_response_content_type(0, "application/x-own")
    return [value * model for value in data]
def output_fn(prediction, accept):
    return json.dumps({"accept": accept, "values": prediction})
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    from serving_lab import RunningServer

    files = {"model/code/serve_me.py": OWN, "model/factor": "3"}
    running = RunningServer(tmp_path_factory.mktemp("ml"), files, {"SAGEMAKER_PROGRAM": "serve_me.py"})
    yield running.wait_until_ready()
    running.stop()


def test_all_four_functions_make_the_answer(own):
    answer = own.invoke([1, 2], Accept="application/json")
    assert answer.json() == {"accept": "application/json", "values": [3, 6]}
    assert answer.headers["Content-Type"] == "application/x-own"
    assert own.invoke(b"[1]", "application/octet-stream").json()["values"] == [3]


def test_what_a_function_raises_is_answered_with_its_traceback(own):
    answer = own.invoke('"raise"')
    assert answer.status == 500
    assert answer.body.startswith(b"no such thing\nTraceback")
    assert own.invoke('"teapot"').status == 418


def test_what_is_not_written_has_a_default_on_the_model_in_the_folder(start):
    server = start(
        {**MODEL, "model/code/inference.py": "def output_fn(prediction, accept):\n    return prediction.sum()"}
    )
    assert server.invoke([[1, 2]]).json() == 6.0


def test_the_default_formats_are_json_csv_and_npy(start):
    server = start({**MODEL, "model/code/inference.py": "def predict_fn(data, model):\n    return model.predict(data)"})
    file = io.BytesIO()
    np.save(file, np.array([[1.0, 2.0]]))
    for body, kind in (("[[1, 2]]", "application/json"), ("1,2\n", "text/csv"), (file.getvalue(), "application/x-npy")):
        assert server.invoke(body, kind).json() == [[2, 4]]
    assert server.invoke("[[1, 2]]", Accept="text/csv").body == b"2.0,4.0\n"
    array = np.load(io.BytesIO(server.invoke("[[1, 2]]", Accept="application/x-npy").body))
    np.testing.assert_array_equal(array, [[2, 4]])
    refused = server.invoke("x", "image/png")
    assert (refused.status, b"Unsupported content type: image/png" in refused.body) == (415, True)


def test_transform_fn_stands_alone(start):
    script = "def transform_fn(model, data, content_type, accept):\n    return data.upper(), 'text/plain'\n"
    answer = start({**MODEL, "model/code/inference.py": script}).invoke('"abc"')
    assert (answer.body, answer.headers["Content-Type"]) == (b'"ABC"', "text/plain")
    both = start({**MODEL, "model/code/inference.py": script + "def input_fn(data, kind):\n    pass\n"}, ready=False)
    assert both.process.wait(30) == 1
    assert "Cannot use transform_fn implementation in conjunction with input_fn" in both.log


def test_each_worker_loads_a_model_of_its_own(start):
    script = "def model_fn(folder):\n    print('LOADED', flush=True)\n    return 1\n"
    server = start({"model/code/inference.py": script}, {"SAGEMAKER_MODEL_SERVER_WORKERS": "3"})
    assert server.log.count("LOADED") == 3


def test_a_model_fn_that_fails_ends_the_server_with_its_error(start):
    server = start({"model/code/inference.py": "def model_fn(folder):\n    raise OSError('no file')\n"}, ready=False)
    assert server.process.wait(30) == 1
    assert "model_fn failed: OSError: no file" in server.log


IN_PIECES = """
import time
def model_fn(model_dir):
    return None
def transform_fn(model, data, content_type, accept):
    return pieces(data), "text/plain"
def pieces(word):
    if word == "at once":
        raise ValueError("nothing to tell")
    yield "one"
    yield ""
    yield b"two"
    if word == "later":
        raise ValueError("in the middle")
    if word == "much":
        for _ in range(200):
            yield b"x" * 1_000_000
"""


@pytest.fixture(scope="module")
def in_pieces(tmp_path_factory):
    from serving_lab import RunningServer

    running = RunningServer(tmp_path_factory.mktemp("ml"), {"model/code/inference.py": IN_PIECES}, {})
    yield running.wait_until_ready()
    running.stop()


def test_a_generator_is_sent_as_it_makes_its_pieces(in_pieces):
    answer = in_pieces.invoke(b"all", "text/csv")
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "text/plain", b"onetwo")
    assert in_pieces.invoke(b"all", "text/csv").body == b"onetwo"


def test_a_generator_that_fails_before_its_first_piece_is_an_error(in_pieces):
    answer = in_pieces.invoke(b"at once", "text/csv")
    assert (answer.status, answer.error) == (500, "ValueError: nothing to tell")


def test_a_generator_that_fails_later_breaks_the_answer_off(in_pieces):
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        in_pieces.invoke(b"later", "text/csv")
    assert "in the middle" in in_pieces.log
    assert in_pieces.invoke(b"all", "text/csv").body == b"onetwo"


def test_an_answer_that_nobody_reads_is_given_up_and_holds_nobody_up(in_pieces):
    request = b"POST /invocations HTTP/1.1\r\nContent-Type: text/csv\r\nContent-Length: 4\r\n\r\nmuch"
    for _ in range(3):
        connection = in_pieces.connect()
        connection.connect()
        connection.sock.sendall(request)
        assert connection.sock.recv(5) == b"HTTP/"
        connection.close()
    assert in_pieces.invoke(b"all", "text/csv").body == b"onetwo"
    assert len(in_pieces.invoke(b"much", "text/csv").body) == 200_000_006
