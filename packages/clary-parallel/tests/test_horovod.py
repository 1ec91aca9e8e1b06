"""Programs written for Horovod and for SageMaker's data parallel library run unchanged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from parallel_lab import TESTS, Ended, run_ranks

pytestmark = pytest.mark.slow

PROGRAMS = TESTS / "programs"
CALLS = re.findall(r"@case\ndef (\w+)", (PROGRAMS / "hvd_calls.py").read_text())


@pytest.fixture(scope="module")
def all_calls() -> Ended:
    return run_ranks(PROGRAMS / "hvd_calls.py", 2, timeout=280)


@pytest.mark.parametrize("name", CALLS)
def test_each_call_does_what_horovod_says(name: str, all_calls: Ended) -> None:
    assert sorted(all_calls.reports) == [0, 1], all_calls.errors
    assert [report.get(name, all_calls.errors) for report in all_calls.reports.values()] == [None, None]


def test_a_keras_program_trains_with_its_callbacks(tmp_path: Path) -> None:
    ended = run_ranks(PROGRAMS / "hvd_keras_mnist.py", 2, str(tmp_path), timeout=280)
    assert ended.code == 0, ended.errors
    first, second = ended.reports[0], ended.reports[1]
    assert first == second
    assert first["loss"][-1] < first["loss"][0]
    assert first["lr"][-1] == pytest.approx(0.004, rel=1e-4)
    assert first["lr"][0] < 0.004
    assert "Epoch 2: finished gradual learning rate warmup to 0.004." in ended.output
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{epoch}.keras" for epoch in (1, 2, 3)]


def test_a_custom_loop_ends_with_equal_weights(tmp_path: Path) -> None:
    ended = run_ranks(PROGRAMS / "hvd_custom_loop.py", 2, str(tmp_path), timeout=280)
    assert ended.code == 0, ended.errors
    assert ended.reports[0] == ended.reports[1]
    assert "Step #5" in ended.output
    assert (tmp_path / "checkpoint").exists()


def test_a_loop_of_sagemakers_library_ends_with_equal_weights() -> None:
    ended = run_ranks(PROGRAMS / "sdp_custom_loop.py", 2, timeout=280)
    assert ended.code == 0, ended.errors
    assert ended.reports[0] == ended.reports[1]
