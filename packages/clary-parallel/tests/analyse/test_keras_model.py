"""Keras models as graphs, and the command that plans them."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import parallel_lab

pytestmark = pytest.mark.slow

GFLOPS = {"ResNet50": 7.8, "DenseNet121": 5.7, "InceptionV3": 11.5, "MobileNetV2": 0.6}
"""For one image, a multiplication and an addition counted as two: the published figures."""


def test_models_are_traced_with_their_costs_and_partition_evenly():
    ended = parallel_lab.run_ranks(parallel_lab.TESTS / "programs" / "plan_models.py", 1)

    assert ended.code == 0, ended.errors
    found = ended.reports[0]
    for name, gflops in GFLOPS.items():
        model = found[name]
        assert model["operations"] == model["layers"], name
        assert model["weights"] == model["expected"], name
        assert model["gflops"] == pytest.approx(gflops, rel=0.05), name
        assert model["heaviest"] < 1.15, name
        assert not model["exact"], name
    assert found["nested"] == ["InputLayer", "Dense", "Dense", "Dense", "Dense"]
    assert found["pins"] == {"pinned": 1}
    assert found["together"] == [[1, 3]]
    assert found["names"] == ["shared", "re_lu", "shared/1", "dense_2"]
    first, *others = found["alike"]
    assert others == [pytest.approx(1.5 * first)] * 2  # nobody needs the gradient of the first layer's input
    assert "'raw' is a subclassed model that was never called" in found["never called"]
    assert "Model 'raw' cannot be traced" in found["untraceable"]
    assert "wrap other TensorFlow calls in a keras.layers.Layer" in found["untraceable"]


MODEL = """
import keras

def model():
    inputs = keras.Input((64,))
    x = inputs
    for number in range(8):
        x = keras.layers.Dense(64, activation="relu", name=f"dense_{number}")(x)
    return keras.Model(inputs, x)
"""


BRANCHES = """
import keras

inputs = [keras.Input((width,)) for width in (40, 60, 20)]
branches = [keras.layers.Dense(8, name=f"from_{x.shape[-1]}")(x) for x in inputs]
model = keras.Model(inputs, keras.layers.Dense(3, name="head")(keras.layers.Concatenate(name="join")(branches)))
"""


def plan(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    home = parallel_lab.environment()
    command = [str(home / "bin" / "python"), "-m", "clary_parallel", "plan", *arguments]
    variables = {**os.environ, **parallel_lab.rank_environment(home, folder, {})}
    return subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_command_prints_the_plan_and_draws_it(tmp_path: Path):
    (tmp_path / "model.py").write_text(MODEL)

    done = plan(tmp_path, "model.py", "--partitions", "4", "--svg", "plan.svg", "--chart", "chart.svg")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [[str(stage), "2"] for stage in range(4)]
    assert "device 3" in done.stdout
    assert "dense_7" in (tmp_path / "plan.svg").read_text()
    assert "F7" in (tmp_path / "chart.svg").read_text()

    refused = plan(tmp_path, "model.py", "--partitions", "9")
    assert refused.returncode == 1
    assert "8 operations that can be parted, fewer than partitions=9" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_command_plans_what_is_not_contiguous_and_keeps_plans_in_files(tmp_path: Path):
    (tmp_path / "model.py").write_text(BRANCHES)
    file = tmp_path / "plans" / "model.json"

    made = plan(tmp_path, "model.py", "--no-contiguous", "--partition-file", str(file))
    assert made.returncode == 0, made.stderr
    told = json.loads(file.read_text())
    parted = {row["name"]: row["partition"] for row in told["operations"] if row["partition"] is not None}
    # The model calls from_40 first: the first stage is no run of its order.
    assert parted == {"from_40": 1, "from_60": 0, "from_20": 0, "join": 1, "head": 1}

    # Another plan, which nothing would choose: it is the file's that is shown.
    for row in told["operations"]:
        if row["partition"] is not None:
            row["partition"] = 1 if row["name"] == "head" else 0
    file.write_text(json.dumps(told))
    read = plan(tmp_path, "model.py", "--partition-file", str(file), "--load-partition")
    assert [line.split()[:2] for line in read.stdout.splitlines()[2:4]] == [["0", "4"], ["1", "1"]], read.stderr

    for arguments, expected in (
        (("--partition-file", str(file), "--load-partition", "--partitions", "3"), "is for 2 partitions. Expected: 3"),
        (("--partition-file", "none.json", "--load-partition"), "none.json cannot be read: No such file or directory"),
        (("--load-partition",), "--load-partition needs the file to load: --partition-file FILE."),
    ):
        refused = plan(tmp_path, "model.py", *arguments)
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith("clary-parallel: ")
        assert expected in refused.stderr
        assert "Traceback" not in refused.stderr
