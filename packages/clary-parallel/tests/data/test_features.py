"""What data_parallel offers beside plain training, on two ranks."""

from __future__ import annotations

import functools
import re

import pytest

from parallel_lab import TESTS, Ended, run_ranks

pytestmark = pytest.mark.slow

PROGRAM = TESTS / "programs" / "features.py"
NAMES = re.findall(r"@case\ndef (\w+)", PROGRAM.read_text())


@functools.cache
def all_features() -> Ended:
    return run_ranks(PROGRAM, 2, timeout=280)


@pytest.mark.parametrize("name", NAMES)
def test_on_two_ranks(name: str) -> None:
    ended = all_features()
    assert sorted(ended.reports) == [0, 1], ended.errors
    assert [report.get(name, ended.errors) for report in ended.reports.values()] == [None, None]
