"""OpenVINO computes in TensorFlow's place, with the same results, and leaves alone what it would compute otherwise."""

from __future__ import annotations

import io
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from toolkit_lab import cached_target

if TYPE_CHECKING:
    from serving_lab import RunningServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def ask(server: RunningServer, model: str, body: object, **more: str):
    return server.invoke(body, X_Amzn_SageMaker_Custom_Attributes=f"tfs-model-name={model}", **more)


def decided(server: RunningServer, model: str, body: object, signature: str = "serving_default") -> str:
    """What the log says of who computes, once a request has been compared."""
    line = re.compile(rf"/{model}/\d+, signature {signature}: (.* computes from now on|TensorFlow computes\. .*)")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert ask(server, model, body).status == 200
        found = line.search(server.log)
        if found:
            return found.group(1)
        time.sleep(0.02)
    raise AssertionError(server.log)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("name", ["dense", "convolution", "reader"])
def test_networks_are_computed_by_openvino_with_kerass_results(environment, zoo, name):
    case = environment.case(name)
    assert decided(zoo, name, case["request"]).startswith("OpenVINO")
    (expected,) = case["outputs"].values()
    whole = ask(zoo, name, case["request"]).json()["outputs"]
    np.testing.assert_allclose(np.array(whole), expected, rtol=1e-4, atol=1e-5)
    (rows,) = case["request"]["inputs"].values()
    for row, wanted in zip(rows, expected, strict=True):  # one row alone takes a plan of its own
        alone = ask(zoo, name, {"instances": [row]}).json()["predictions"]
        np.testing.assert_allclose(np.array(alone[0]), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "signature", "request_body", "why"),
    [
        ("words", "serving_default", {"instances": ["a"]}, "type string"),
        (
            "exotic",
            "serving_default",
            {"instances": [1.0]},
            "It keeps something between requests (AssignAddVariableOp)",
        ),
        ("exotic", "counts", {"instances": [1.0]}, "It keeps something between requests (AssignAddVariableOp)"),
        ("exotic", "random", {"instances": [1.0]}, "It computes with random numbers (RandomUniform)"),
        ("exotic", "checks", {"instances": [1.0]}, "It checks values as it computes (Assert)"),
        ("exotic", "doubles", {"instances": [1.0]}, "type double"),
        ("exotic", "hashes", {"instances": [5]}, "It computes with whole numbers"),
        ("several", "serving_default", {"instances": [{"a": [1, 2, 3], "b": 3000000000}]}, "It computes with whole"),
    ],
)
def test_what_openvino_would_compute_otherwise_stays_with_tensorflow(zoo, name, signature, request_body, why):
    said = decided(zoo, name, {"signature_name": signature, **request_body}, signature)
    assert said.startswith("TensorFlow computes.")
    assert why in said


def test_an_index_beyond_the_table_is_an_error_as_in_tensorflow(environment, zoo):
    decided(zoo, "reader", environment.case("reader")["request"])
    answer = ask(zoo, "reader", {"instances": [[0, 1, 2, 3, 4, 50]]})
    assert answer.status == 400
    assert "50 is not in [0, 50)" in answer.error


def test_a_wrong_shape_is_told_in_tensorflows_words_with_what_is_expected(environment, zoo):
    decided(zoo, "convolution", environment.case("convolution")["request"])
    answer = ask(zoo, "convolution", npy(np.zeros((1, 12, 12, 4), np.float32)), content_type="application/x-npy")
    assert answer.status == 400
    hint = answer.json()["hint"]
    assert "float of shape [-1, 12, 12, 3]" in hint
    assert "Received image: shape [1, 12, 12, 4]" in hint


def test_values_that_are_no_numbers_go_to_tensorflow(environment, zoo):
    decided(zoo, "dense", environment.case("dense")["request"])
    rows = np.array([[np.nan, 1, 1, 1], [np.inf, 0, 0, 0]], np.float32)
    assert ask(zoo, "dense", npy(rows), content_type="application/x-npy").status == 200
    assert "The request has NaN or infinite values." in zoo.log


def test_a_signature_of_another_name_is_computed_by_openvino_too(environment, zoo):
    body = {"signature_name": "serve", **environment.case("dense")["request"]}
    assert decided(zoo, "dense", body, "serve").startswith("OpenVINO")


def test_tensorflow_alone_computes_where_that_is_asked_for(environment):
    server = environment.serve("dense.keras", CLARY_SERVING_EXECUTION="tensorflow")
    try:
        assert server.invoke(environment.case("dense")["request"]).status == 200
        assert "TensorFlow computes, in float32. So says CLARY_SERVING_EXECUTION." in server.log
        assert "OpenVINO" not in server.log
    finally:
        server.stop()


def test_bfloat16_is_used_where_it_is_asked_for_and_near(environment):
    server = environment.serve("dense.keras", CLARY_SERVING_PRECISION="bf16")
    try:
        case = environment.case("dense")
        end = time.monotonic() + 60
        while "(bfloat16) computes from now on" not in server.log and time.monotonic() < end:
            server.invoke(case["request"])
        assert "(bfloat16) computes from now on" in server.log
        outputs = np.array(server.invoke(case["request"]).json()["outputs"])
        np.testing.assert_allclose(outputs, case["outputs"]["y"], atol=0.05)
    finally:
        server.stop()


def test_int8_is_calibrated_by_the_first_requests_where_it_is_asked_for(environment, quantiser):
    server = environment.serve("dense.keras", CLARY_SERVING_PRECISION="int8", PYTHONPATH=str(quantiser))
    try:
        case = environment.case("dense")
        end = time.monotonic() + 120
        while "(int8) computes from now on" not in server.log and time.monotonic() < end:
            assert server.invoke(case["request"]).status == 200
        assert "(int8) computes from now on" in server.log, server.log
        outputs = np.array(server.invoke(case["request"]).json()["outputs"])
        expected = np.array(case["outputs"]["y"])
        assert np.abs(outputs - expected).max() < 0.25 * np.abs(expected).max()
        assert (outputs != expected).any()
    finally:
        server.stop()


def test_int8_without_what_quantises_says_what_is_missing(environment):
    server = environment.serve("dense.keras", CLARY_SERVING_PRECISION="int8")
    try:
        assert server.invoke(environment.case("dense")["request"]).status == 200
        assert "For int8 NNCF has to quantise the model: write nncf into its code/requirements.txt." in server.log
    finally:
        server.stop()


@pytest.fixture(scope="module")
def quantiser(environment) -> Path:
    """A folder with NNCF, as pip makes one of a model's requirements.txt; made once and kept."""
    version = subprocess.check_output([environment.python, "-c", "import sys; print(sys.version_info[:2])"], text=True)
    return cached_target(f"nncf-{''.join(filter(str.isdigit, version))}", environment.python, ["nncf==3.4.0"])
