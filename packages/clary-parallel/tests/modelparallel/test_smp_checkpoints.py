"""What an smp.DistributedModel of two partitions saves goes on under any other number of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from parallel_lab import TESTS, run_ranks

pytestmark = pytest.mark.slow

PROGRAM = TESTS / "programs" / "smp_checkpoints.py"


def test_checkpoints_and_weights_of_two_partitions_go_on_under_one_and_under_three(tmp_path: Path) -> None:
    written = run_ranks(PROGRAM, 2, "write", "2", str(tmp_path))
    assert written.code == 0, written.errors

    for partitions in (1, 3):
        restored = run_ranks(PROGRAM, partitions, "restore", str(partitions), str(tmp_path))

        assert restored.code == 0, restored.errors
        assert sorted(restored.reports) == list(range(partitions))
        for report in restored.reports.values():
            assert sorted(report) == ["adafactor", "adam", "functional", "subclassed"]
            for name, found in report.items():
                assert found["apart"] < 1e-5, name
            assert [report[name]["epoch"] for name in ("adam", "adafactor")] == [5, 5]
        for name in ("adam", "adafactor"):
            held = [report[name]["held"] for report in restored.reports.values()]
            assert sum(held) == restored.reports[0][name]["all"]
