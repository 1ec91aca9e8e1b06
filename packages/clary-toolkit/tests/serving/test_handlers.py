"""inference.py is called as AWS's TensorFlow Serving image calls it."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving_lab import MODEL

ROW = {"instances": [[1, 2]]}
PAIR = """
import json
def input_handler(data, context):
    values = json.loads(data.read().decode("utf-8"))
    if context.request_content_type != "application/json":
        raise ValueError("Unsupported content type " + context.request_content_type)
    return json.dumps({"instances": values["rows"]})
def output_handler(response, context):
    assert response.status_code == 200 and response.ok
    assert response.json() == json.loads(response.content.decode()) == json.loads(response.text)
    return json.dumps({"doubled": response.json()["predictions"]}), context.accept_header
"""
UNCHECKED = """
import json
def input_handler(data, context):
    return data.read()
def output_handler(response, context):
    if response.status_code == 400 and "loud" in (context.custom_attributes or ""):
        raise ValueError(response.content.decode("utf-8"))
    said = [response.status_code, response.reason, response.ok, response.json()]
    return json.dumps(said), "application/json"
"""
HANDLER = """
import json, time, urllib.request, helper
def handler(data, context):
    body = data.read()
    if body == b"hang":
        time.sleep(600)
    if body == b"exit":
        raise SystemExit("no")
    if body == b"nothing":
        return None
    if body == b"context":
        seen = [context.model_name, context.model_version, context.method, context.custom_attributes,
                context.request_content_type, context.accept_header, context.content_length]
        return json.dumps(seen), "application/json"
    request = urllib.request.Request(context.rest_uri, data=body)
    return urllib.request.urlopen(request).read(), "text/x-" + helper.KIND
"""


@pytest.fixture(scope="module")
def handled(tmp_path_factory):
    from serving_lab import RunningServer

    files = {**MODEL, "model/code/inference.py": HANDLER, "model/code/lib/helper.py": "KIND = 'own'"}
    variables = {"SAGEMAKER_GUNICORN_TIMEOUT_SECONDS": "2", "SAGEMAKER_NGINX_PROXY_READ_TIMEOUT_SECONDS": "2"}
    running = RunningServer(tmp_path_factory.mktemp("ml"), files, variables).wait_until_ready()
    yield running
    running.stop()


def test_the_pair_is_fed_through_the_model(start):
    server = start({**MODEL, "model/code/inference.py": PAIR})
    answer = server.invoke({"rows": [[1, 2]]}, Accept="application/json")
    assert answer.json() == {"doubled": [[2, 4]]}
    failed = server.invoke("x", "text/plain")
    assert failed.status == 500
    assert "Expecting value" in failed.error
    assert "input_handler" in failed.json()["traceback"]
    assert "Traceback" in server.log


def test_up_to_the_image_of_2_19_the_output_handler_gets_the_models_errors(start):
    server = start({**MODEL, "model/code/inference.py": UNCHECKED}, {"SAGEMAKER_TFS_VERSION": "2.19"})
    returned = server.invoke({"instances": [[1, 2, 3]]})
    *response, document = returned.json()
    assert (returned.status, response) == (200, [400, "Bad Request", False])
    assert document["error"] == "Matrix size-incompatible"
    raised = server.invoke({"instances": [[1, 2, 3]]}, X_Amzn_SageMaker_Custom_Attributes="loud")
    assert (raised.status, json.loads(raised.error)["error"]) == (500, "Matrix size-incompatible")
    assert server.invoke(ROW).json()[:3] == [200, "OK", True]


def test_from_the_image_of_2_20_on_the_models_errors_go_past_it_in_awss_frame(start):
    server = start({**MODEL, "model/code/inference.py": UNCHECKED}, {"SAGEMAKER_TFS_VERSION": "2.20"})
    relayed = server.invoke({"instances": [[1, 2, 3]]})
    said = relayed.json()
    assert (relayed.status, sorted(said), said["title"]) == (400, ["description", "title"], "400 Bad Request")
    assert json.loads(said["description"])["error"] == "Matrix size-incompatible"


def test_rest_uri_answers_requests_of_the_handlers_own(handled):
    answer = handled.invoke(ROW)
    assert answer.json() == {"predictions": [[2, 4]]}
    assert answer.headers["Content-Type"] == "text/x-own"


def test_the_context_tells_what_awss_tells(handled):
    attributes = "tfs-model-name=model,tfs-model-version=1,mine=2"
    answer = handled.invoke("context", "a/b", Accept="c/d", X_Amzn_SageMaker_Custom_Attributes=attributes)
    assert answer.json() == ["model", "1", None, attributes, "a/b", "c/d", 7]
    assert handled.invoke("context").json()[:3] == [None, None, None]


def test_a_handler_that_returns_no_pair_is_told_so(handled):
    answer = handled.invoke("nothing")
    assert (answer.status, "handler returned NoneType. Expected a body" in answer.error) == (500, True)


def test_a_handler_that_exits_fails_its_request_alone(handled):
    assert handled.invoke("exit").status == 500
    assert handled.invoke(ROW).status == 200


def test_handlers_that_hang_are_given_up_and_ping_never_notices(handled):
    with ThreadPoolExecutor(16) as pool:
        hanging = [pool.submit(handled.invoke, "hang") for _ in range(8)]
        time.sleep(0.2)  # they are to be in the handler
        started = time.monotonic()
        assert handled.ask("GET", "/ping").status == 200
        assert time.monotonic() - started < 1.5
        assert {each.result().status for each in hanging} == {504}
    assert handled.invoke(ROW).status == 200


def test_a_script_that_fails_to_import_ends_the_server_with_its_error(start):
    server = start({**MODEL, "model/code/inference.py": "import nothing_of_that_name"}, ready=False)
    assert server.process.wait(30) == 1
    assert "failed as it was imported: ModuleNotFoundError" in server.log


def test_a_script_without_handlers_is_refused_in_awss_words(start):
    server = start({**MODEL, "model/code/inference.py": "x = 1"}, ready=False)
    assert server.process.wait(30) == 1
    assert "Handlers are not implemented correctly in user script." in server.log


def test_a_handler_needs_no_model(start):
    script = "def handler(data, context):\n    return data.read()[::-1], 'text/plain'\n"
    assert start({"model/code/inference.py": script}).invoke("abc", "text/plain").body == b"cba"


def test_requirements_that_pip_cannot_install_end_the_server_with_pips_words(start):
    files = {**MODEL, "model/code/inference.py": PAIR, "model/code/requirements.txt": "./nowhere-to-be-found"}
    server = start(files, ready=False)
    assert server.process.wait(60) == 1
    assert "pip could not install" in server.log
