"""Training on ranks has the result that one process with stock Keras has on the joined batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parallel_lab import TESTS, run_ranks

pytestmark = pytest.mark.slow

Report = dict[str, Any]
Reports = dict[int, Report]

PROGRAM = TESTS / "programs" / "equality.py"
CASES = ["dense sgd", "dense clipnorm", "dense global_clipnorm", "convolution adam"]
CASES += ["embedding sgd", "embedding adam", "attention adam", "attention global_clipnorm"]


@pytest.fixture(scope="module")
def stock() -> Report:
    ended = run_ranks(PROGRAM, 1, "stock")
    assert ended.code == 0, ended.errors
    return ended.reports[0]


@pytest.fixture(scope="module")
def parallel() -> Reports:
    ended = run_ranks(PROGRAM, 2, "parallel")
    assert ended.code == 0, ended.errors
    return ended.reports


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_weights_of_one_process(case: str, parallel: Reports, stock: Report) -> None:
    for rank in (0, 1):
        for ours, theirs in zip(parallel[rank][case]["weights"], stock[case]["weights"], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)
    assert parallel[0][case]["weights"] == parallel[1][case]["weights"]
    assert parallel[0][case]["iterations"] == stock[case]["iterations"]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_report_the_losses_and_metrics_of_one_process(case: str, parallel: Reports, stock: Report) -> None:
    for rank in (0, 1):
        ours, theirs = parallel[rank][case], stock[case]
        assert list(ours["logs"]) == list(theirs["logs"])
        for name, values in theirs["logs"].items():
            np.testing.assert_allclose(ours["logs"][name], values, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(ours["evaluated"], theirs["evaluated"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_every_rank_gets_all_predictions(case: str, parallel: Reports, stock: Report) -> None:
    for rank in (0, 1):
        np.testing.assert_allclose(parallel[rank][case]["predicted"], stock[case]["predicted"], rtol=1e-3, atol=1e-4)
