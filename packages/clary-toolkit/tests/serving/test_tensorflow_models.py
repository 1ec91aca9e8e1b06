"""Real models in real TensorFlow environments are answered as Keras itself answers."""

from __future__ import annotations

import io
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from serving_lab import RunningServer

from clary.images.build import ensure
from clary.images.catalog import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
_ENVIRONMENTS = Path(os.environ.get("CLARY_TEST_IMAGES_HOME", "~/.cache/clary-test-images")).expanduser()
_SERVE = "import sys; from clary_toolkit.serving.server import main; sys.exit(main())"
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}


class Environment:
    """A TensorFlow environment and the models that were made in it."""

    def __init__(self, python: Path, models: Path) -> None:
        self.python = python
        self.models = models

    def case(self, name: str) -> dict:
        return json.loads((self.models / f"{name}.json").read_text())

    def serve(self, name: str, variables: dict[str, str] | None = None) -> RunningServer:
        command = (str(self.python), "-c", _SERVE)
        server = RunningServer(self.models / name, {}, {**_QUIET, **(variables or {})}, command)
        return server.wait_until_ready(240)


@pytest.fixture(scope="module", params=["2.19-cpu-py312", "2.21-cpu-py312"])
def environment(request, tmp_path_factory) -> Iterator[Environment]:
    image = ensure(resolve(f"tensorflow-training:{request.param}", gpu=False), _ENVIRONMENTS, print)
    models = tmp_path_factory.mktemp("models")
    script = Path(__file__).parent / "make_models.py"
    subprocess.run([image.python, script, models], check=True, env={**os.environ, **_QUIET}, timeout=600)
    yield Environment(image.python, models)
    image.release()


@pytest.fixture(scope="module")
def zoo(environment) -> Iterator[RunningServer]:
    """All SavedModels in one server."""
    server = environment.serve("zoo")
    yield server
    assert server.stop() == 0


def attributes_of(name: str) -> dict[str, str]:
    return {"X_Amzn_SageMaker_Custom_Attributes": f"tfs-model-name={name}"}


def check(case: dict, answer) -> None:
    assert answer.status == 200, answer.body
    outputs = answer.json()["outputs"]
    for name, expected in case["outputs"].items():
        got = outputs[name] if len(case["outputs"]) > 1 else outputs
        if isinstance(expected[0], str):
            assert got == expected
        else:
            np.testing.assert_allclose(np.array(got), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dense", "convolution", "several", "words"])
def test_a_saved_model_answers_what_keras_answers(environment, zoo, name):
    case = environment.case(name)
    check(case, zoo.invoke(case["request"], Accept="application/json", **attributes_of(name)))


@pytest.mark.parametrize("name", ["dense.keras", "dense.h5"])
def test_a_keras_file_answers_what_keras_answers(environment, name):
    case = environment.case(name)
    server = environment.serve(name)
    try:
        check(case, server.invoke(case["request"], Accept="application/json"))
    finally:
        assert server.stop() == 0


def test_many_clients_get_their_own_rows_and_a_wrong_shape_is_explained(environment, zoo):
    case = environment.case("dense")
    rows, expected = case["request"]["inputs"]["x"], np.array(case["outputs"]["y"])

    def ask(number: int) -> None:
        if number % 10 == 9:
            answer = zoo.invoke({"instances": [[1, 2, 3]]}, **attributes_of("dense"))
            assert answer.status == 400
            assert "Matrix size-incompatible: In[0]: [1,3]" in answer.error
            return
        row = number % len(rows)
        answer = zoo.invoke({"instances": [rows[row]]}, **attributes_of("dense"))
        np.testing.assert_allclose(answer.json()["predictions"][0], expected[row], rtol=1e-5, atol=1e-6)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(200)))
    assert "of dense are not joined" not in zoo.log
    assert "expects x: float of shape [-1, 4] (-1 is any size). Received x: shape [1, 3]." in zoo.log


def test_npy_images_are_answered_in_npy(environment, zoo):
    case = environment.case("convolution")
    file = io.BytesIO()
    np.save(file, np.array(case["request"]["inputs"]["image"], np.float32))
    attributes = attributes_of("convolution")
    answer = zoo.invoke(file.getvalue(), "application/x-npy", Accept="application/x-npy", **attributes)
    np.testing.assert_allclose(np.load(io.BytesIO(answer.body)), case["outputs"]["y"], rtol=1e-5, atol=1e-6)
