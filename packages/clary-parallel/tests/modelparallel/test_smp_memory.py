"""A program written for SageMaker's library that does not fit one process trains over two, under the same limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parallel_lab import TESTS, assert_does_not_fit_alone, run_ranks

pytestmark = pytest.mark.slow

PROGRAM = TESTS / "programs" / "smp_memory.py"
MEBIBYTES = "420"
"""The model takes 512 MiB while it trains: four times its 128 MiB of weights."""


def parameters(partitions: int) -> str:
    return json.dumps({"partitions": partitions, "microbatches": 4})


def test_a_model_that_does_not_fit_one_process_trains_and_saves_over_two_under_the_same_limit(tmp_path: Path):
    assert_does_not_fit_alone(PROGRAM, parameters(1), "subclassed", MEBIBYTES)
    # With oneDNN, as users have it, TensorFlow manages memory in its own way.
    with_onednn = {"TF_ENABLE_ONEDNN_OPTS": "1"}
    divided = run_ranks(PROGRAM, 2, parameters(2), "subclassed", MEBIBYTES, str(tmp_path), variables=with_onednn)

    assert divided.code == 0, divided.errors
    assert sorted(divided.reports) == [0, 1]
    for report in divided.reports.values():
        first, second, third, third_again = report["losses"]
        assert second < first
        assert third_again == pytest.approx(third, rel=1e-4)
    # All of it is there: the weights, and the checkpoint's moments.
    sizes = {
        name: sum(file.stat().st_size for file in (tmp_path / name).rglob("*")) for name in ("saved", "checkpoints")
    }
    assert sizes["saved"] > 128 << 20
    assert sizes["checkpoints"] > 3 * (128 << 20)


def test_a_functional_model_is_never_whole_on_a_rank():
    divided = run_ranks(PROGRAM, 2, parameters(2), "functional", MEBIBYTES)

    assert divided.code == 0, divided.errors
    assert sorted(divided.reports) == [0, 1]
    for report in divided.reports.values():
        made, parted = (report["phases"][phase]["VmHWM"] for phase in ("made", "parted"))
        assert made < 0.2 * report["whole"]
        assert parted < 0.9 * report["whole"]
        assert report["weights"] < 0.6 * report["whole"]
    assert sum(report["weights"] for report in divided.reports.values()) == divided.reports[0]["whole"]
