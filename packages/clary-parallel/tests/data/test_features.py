"""What data_parallel offers beside plain training, on two ranks."""

from __future__ import annotations

import re

import pytest

from parallel_lab import TESTS, Ended, run_ranks

pytestmark = pytest.mark.slow

PROGRAM = TESTS / "programs" / "features.py"
NAMES = re.findall(r"@case\ndef (\w+)", PROGRAM.read_text())


@pytest.fixture(scope="module")
def all_features() -> Ended:
    return run_ranks(PROGRAM, 2, timeout=280)


@pytest.mark.parametrize("name", NAMES)
def test_on_two_ranks(name: str, all_features: Ended) -> None:
    assert sorted(all_features.reports) == [0, 1], all_features.errors
    assert [report.get(name, all_features.errors) for report in all_features.reports.values()] == [None, None]
