"""Keras models as graphs, and the command that plans them."""

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


def test_the_command_prints_the_plan_and_draws_it(tmp_path: Path):
    (tmp_path / "model.py").write_text(MODEL)
    home = parallel_lab.environment()

    def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(home / "bin" / "python"), "-m", "clary_parallel", "plan", *arguments]
        variables = {**os.environ, **parallel_lab.rank_environment(home, tmp_path, {})}
        return subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    done = plan("model.py", "--partitions", "4", "--svg", "plan.svg", "--chart", "chart.svg")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[2:6]] == [[str(stage), "2"] for stage in range(4)]
    assert "device 3" in done.stdout
    assert "dense_7" in (tmp_path / "plan.svg").read_text()
    assert "F7" in (tmp_path / "chart.svg").read_text()

    refused = plan("model.py", "--partitions", "9")
    assert refused.returncode == 1
    assert "8 operations that can be parted, fewer than partitions=9" in refused.stderr
    assert "Traceback" not in refused.stderr
