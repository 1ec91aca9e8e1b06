"""Gradients summed by TensorFlow's collectives: here by its ring over gRPC, which takes the same way as NCCL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parallel_lab import TESTS, Ended, run_ranks

pytestmark = pytest.mark.slow

PROGRAM = TESTS / "programs" / "device_collectives.py"
RING = {"CLARY_PARALLEL_COLLECTIVES": "ring"}

START = """
import os, signal
import clary_parallel
clary_parallel.init()
import tensorflow as tf
from clary_parallel.data import collectives, gradients, world
reducer = gradients.GradientReducer()
step = tf.function(lambda: reducer.reduce([tf.ones([1000]), tf.ones([3, 2])])[0])
step()
def stop(signum):
    begin = collectives.Collectives.begin
    collectives.Collectives.begin = lambda *given: (begin(*given), os.kill(os.getpid(), signum))
"""


@pytest.fixture(scope="module")
def stock() -> dict[str, Any]:
    ended = run_ranks(PROGRAM, 1, "stock")
    assert ended.code == 0, ended.errors
    return ended.reports[0]


@pytest.fixture(scope="module")
def parallel() -> Ended:
    ended = run_ranks(PROGRAM, 2, "parallel", variables=RING)
    assert ended.code == 0, ended.errors
    assert [report["hint"] for report in ended.reports.values()] == ["ring", "ring"]
    return ended


@pytest.mark.parametrize("case", ["dense", "convolution", "loop"])
def test_two_ranks_have_the_weights_of_one_process(case: str, parallel: Ended, stock: dict[str, Any]) -> None:
    for rank in (0, 1):
        for ours, theirs in zip(parallel.reports[rank][case], stock[case], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)
    assert parallel.reports[0][case] == parallel.reports[1][case]


def test_gradients_sent_in_half_precision_come_close_and_are_equal_on_all_ranks(
    parallel: Ended, stock: dict[str, Any]
) -> None:
    for ours, theirs in zip(parallel.reports[0]["half"], stock["half"], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.01)
    assert parallel.reports[0]["half"] == parallel.reports[1]["half"]


def test_a_rank_that_has_joined_takes_part_in_the_sums_of_the_others(parallel: Ended) -> None:
    assert parallel.reports[0]["unequal"] == [2.0, 4.0, 3.0]
    assert parallel.reports[1]["unequal"] == [2.0, 4.0]


def test_a_gradient_that_is_not_finite_is_named_with_its_rank(parallel: Ended) -> None:
    for report in parallel.reports.values():
        assert "rank 1: the kernel (1 NaN, 0 infinite of 2)" in report["refused"]


def test_a_rank_that_stops_in_the_middle_of_a_sum_ends_the_job_within_the_patience_and_is_named() -> None:
    program = START + "if world.rank() == 1: stop(signal.SIGSTOP)\nstep()\nprint('went on')"
    ended = run_ranks(program, 2, variables={**RING, "CLARY_PARALLEL_PATIENCE": "8"}, timeout=90)
    assert ended.code != 0
    assert "rank 0 waited 8 s in a sum on the devices (ring) for rank 1. Rank 1 was last heard of" in ended.errors
    assert "went on" not in ended.output


def test_a_rank_that_is_killed_in_the_middle_of_a_sum_ends_the_job_at_once() -> None:
    ended = run_ranks(START + "if world.rank() == 1: stop(signal.SIGKILL)\nstep()\nprint('went on')", 2, variables=RING)
    assert ended.code != 0
    assert "went on" not in ended.output


def test_ranks_that_want_different_sums_all_learn_it() -> None:
    ended = run_ranks(START + "reducer.reduce([tf.ones([world.rank() + 1])])", 2, variables=RING)
    assert ended.code != 0
    assert "rank 0: fused allreduce on the devices gradients (float32[1]) average" in ended.errors
    assert "rank 1: fused allreduce on the devices gradients (float32[2]) average" in ended.errors


def test_init_after_the_first_tensor_is_refused() -> None:
    program = "import tensorflow as tf\ntf.ones([1])\nimport clary_parallel\nclary_parallel.init()"
    ended = run_ranks(program, 2, variables=RING)
    assert ended.code != 0
    assert "CLARY_PARALLEL_COLLECTIVES=ring cannot be had: rank 0: TensorFlow had made its first tensor" in ended.errors


def test_nccl_without_a_gpu_is_refused() -> None:
    program = "import clary_parallel\nclary_parallel.init()"
    ended = run_ranks(program, 2, variables={"CLARY_PARALLEL_COLLECTIVES": "nccl"})
    assert ended.code != 0
    assert "CLARY_PARALLEL_COLLECTIVES=nccl cannot be had: rank 0, 1 sees no GPU" in ended.errors


PINNING = """
import tensorflow as tf
from rank_report import report
from clary_parallel.data import collectives

class Rank:
    local_rank = 1

def chosen(visible, gpus=("first", "second")):
    found = {"growing": []}
    tf.config.list_physical_devices = lambda kind: list(gpus)
    tf.config.get_visible_devices = lambda kind: list(visible)
    tf.config.get_logical_device_configuration = lambda gpu: None
    tf.config.experimental.set_memory_growth = lambda gpu, on: found["growing"].append(gpu)
    tf.config.set_visible_devices = lambda gpu, kind: found.update(visible=gpu)
    seen, known = collectives._seen(Rank())
    collectives._pin(known, Rank.local_rank)
    return {**found, "named": seen.gpu and seen.gpu.split("'s ")[1]}

report([chosen(["first", "second"]), chosen(["first"]), chosen([]), chosen([], [])], 0)
"""


def test_a_rank_pins_itself_to_the_gpu_of_its_local_rank_unless_its_script_has_chosen() -> None:
    # TensorFlow's list of GPUs is made up: there is none here.
    ended = run_ranks(PINNING, 1, variables={"CUDA_VISIBLE_DEVICES": ""})
    assert ended.code == 0, ended.errors
    assert ended.reports[0] == [
        {"growing": ["first", "second"], "visible": "second", "named": "GPU 1"},
        {"growing": [], "named": "GPU 0"},
        {"growing": [], "named": None},
        {"growing": [], "named": None},
    ]
