"""Several models in one server, loaded and unloaded as the platform says."""

from __future__ import annotations

import json

import pytest
from serving_lab import MODEL, RunningServer

from clary_toolkit.serving.errors import ServingError
from clary_toolkit.serving.multi_model import MultiModel, used_memory

ROW = {"instances": [[1, 2]]}
OWN = "def handler(data, context):\n    import kind\n    return context.rest_uri + kind.KIND, 'text/plain'\n"


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    files = {
        "models/a/model/1/saved_model.pb": b"",
        "models/b/model/export/2/saved_model.pb": b"",
        "models/own/model/1/saved_model.pb": b"",
        "models/own/model/code/inference.py": "import kind\n" + OWN.replace("    import kind\n", ""),
        "models/own/model/code/lib/kind.py": "KIND = '#own'",
        "models/sum/model/1/saved_model.pb": b"",
        "models/sum/model/code/inference.py": "def predict_fn(data, model):\n    return model(data).sum()\n",
        "models/bad/model/code/inference.py": "raise OSError('no')",
    }
    base = tmp_path_factory.mktemp("ml")
    running = RunningServer(base, files, {"SAGEMAKER_MULTI_MODEL": "true"}).wait_until_ready()
    yield running
    running.stop()


def load(server, name, url=None):
    base = server.log_file.parent / "models" / name / "model"
    return server.ask("POST", "/models", json.dumps({"model_name": name, "url": url or str(base)}))


def invoke(server, name):
    return server.ask("POST", f"/models/{name}/invoke", json.dumps(ROW), Content_Type="application/json")


def test_a_model_is_loaded_invoked_described_and_unloaded(several):
    assert invoke(several, "a").status == 404
    assert load(several, "a").status == 200
    assert load(several, "b").status == 200
    again = load(several, "a")
    assert (again.status, again.error) == (409, "Model a is already loaded.")
    assert invoke(several, "a").json() == invoke(several, "b").json() == {"predictions": [[2, 4]]}
    assert [each["modelName"] for each in several.ask("GET", "/models").json()["models"]][:2] == ["a", "b"]
    assert several.ask("GET", "/models/a").json()["modelUrl"].endswith("models/a/model")
    assert several.ask("DELETE", "/models/a").status == 200
    assert several.ask("DELETE", "/models/a").status == 404
    assert several.ask("GET", "/models/a").status == 404
    assert invoke(several, "a").error == "Model a is not loaded yet."
    assert invoke(several, "b").status == 200


def test_each_model_may_have_code_of_its_own(several):
    assert load(several, "own").status == 200
    assert invoke(several, "own").body.endswith(b"/v1/models/own:predict#own")
    assert load(several, "sum").status == 200
    assert invoke(several, "sum").json() == 6.0


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({"model_name": "none", "url": "/nowhere"}, 404),
        ({"model_name": "../x", "url": "/nowhere"}, 400),
        ({"model_name": "x"}, 400),
        ([], 400),
    ],
)
def test_a_bad_order_is_refused(several, order, status):
    assert several.ask("POST", "/models", json.dumps(order)).status == status


def test_code_that_fails_to_import_is_told_and_leaves_nothing_loaded(several):
    answer = load(several, "bad")
    assert (answer.status, "failed as it was imported: OSError: no" in answer.error) == (500, True)
    assert several.ask("GET", "/models/bad").status == 404


def test_a_full_memory_is_told_so_that_the_platform_unloads_something():
    several = MultiModel(None, None, "/nowhere", None, memory_used=lambda: 0.9)
    with pytest.raises(ServingError, match="Memory exhausted: 90% is in use") as caught:
        several.load("x", "/nowhere")
    assert caught.value.status == 507
    assert 0 < used_memory() < 1


def test_one_model_has_no_such_interface(start):
    assert start(MODEL).ask("GET", "/models").status == 404


def test_a_model_that_comes_back_with_other_code_runs_that(several):
    folder = several.log_file.parent / "models" / "changing" / "model"
    (folder / "code" / "lib").mkdir(parents=True)
    for kind in ("#first", "#second"):
        (folder / "code" / "lib" / "kind_of_changing.py").write_text(f"KIND = {kind!r}")
        text = "import kind_of_changing\ndef handler(data, context):\n    return kind_of_changing.KIND, 'text/plain'\n"
        (folder / "code" / "inference.py").write_text(text)
        assert load(several, "changing").status == 200
        assert invoke(several, "changing").body.decode() == kind
        assert several.ask("DELETE", "/models/changing").status == 200


def test_the_platforms_share_of_the_memory_counts(monkeypatch):
    monkeypatch.setenv("CLARY_MEMORY_BYTES", str(10**6))
    assert used_memory() > 1, "this process takes more than a megabyte"
    monkeypatch.setenv("CLARY_MEMORY_BYTES", str(10**15))
    assert used_memory() < 0.001 or used_memory() > 0.97
