"""The tutorial "From one process to many" works as it is printed: its code is taken from the page and run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import parallel_lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PAGE = Path(__file__).parents[3] / "docs" / "tutorials" / "from-one-process-to-many.md"
TRAIN, TWO_LINES, LOOP = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)

# What the page takes for granted around its loop: a model, a loss, an optimizer, and this process's part of the data.
BEFORE_THE_LOOP = """
import keras

keras.utils.set_random_seed(__import__("os").getpid())
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
loss_fn, optimizer = keras.losses.MeanSquaredError(), keras.optimizers.SGD(0.1)
"""
AFTER_THE_LOOP = """
from rank_report import report

clary_parallel.broadcast_variables(model.variables)
images = tf.random.stateless_normal((64, 4), (1, 2))
labels = tf.reduce_sum(images, axis=1, keepdims=True)
rank, size = clary_parallel.rank(), clary_parallel.size()
losses = [float(step(images[rank::size], labels[rank::size])) for _ in range(30)]
report({"losses": losses, "weights": [weight.numpy().tolist() for weight in model.trainable_variables]})
"""


def epochs(said: str) -> list[dict[str, float]]:
    """The figures of each epoch's line."""
    lines = [line for line in said.splitlines() if " - loss: " in line]
    return [{name: float(value) for name, value in re.findall(r"(\w+): ([0-9.]+)", line)} for line in lines]


def test_two_lines_make_two_processes_train_as_one_does() -> None:
    to_import, to_wrap = (line for line in TWO_LINES.splitlines() if "clary_parallel" in line)
    before, compiling, after = TRAIN.partition("model.compile(")
    alone = parallel_lab.run_ranks(TRAIN, 1)
    together = parallel_lab.run_ranks(f"{to_import}\n{before}{to_wrap}\n{compiling}{after}", 2)
    assert (alone.code, together.code) == (0, 0), together.errors
    figures = epochs(alone.output)
    assert len(figures) == 3
    assert figures[-1]["accuracy"] > figures[0]["accuracy"]
    # As many lines as of one process, and what one process has, up to the rounding of float32: an image or two of the
    # 410 may fall on the other side.
    assert [epoch.keys() for epoch in epochs(together.output)] == [epoch.keys() for epoch in figures]
    for mine, reference in zip(epochs(together.output), figures, strict=True):
        for name, value in reference.items():
            assert mine[name] == pytest.approx(value, abs=2e-3 if "loss" in name else 6e-3), name


def test_a_loop_of_ones_own_keeps_the_processes_equal() -> None:
    ended = parallel_lab.run_ranks(BEFORE_THE_LOOP + LOOP + AFTER_THE_LOOP, 2)
    assert ended.code == 0, ended.errors
    assert ended.reports[0]["weights"] == ended.reports[1]["weights"]
    assert ended.reports[0]["losses"][-1] < 0.1 * ended.reports[0]["losses"][0]
