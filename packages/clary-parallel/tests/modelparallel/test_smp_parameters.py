"""What the SDK's parameters say of how a model is parted, and what a rank then holds of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parallel_lab import TESTS, Ended, run_ranks

pytestmark = pytest.mark.slow


def run(parameters: dict[str, Any], *arguments: str) -> Ended:
    given = json.dumps({"partitions": 2, "microbatches": 4, **parameters})
    ended = run_ranks(TESTS / "programs" / "smp_parameters.py", 2, given, *arguments)
    assert ended.code == 0, ended.errors
    assert sorted(ended.reports) == [0, 1]
    return ended


def trained_as_one_process(ended: Ended) -> None:
    for report in ended.reports.values():
        assert report["apart"] < 1e-5
        assert report["losses"] < 1e-5
    held = [set(report["absent"]) for report in ended.reports.values()]
    assert held[0]
    assert held[1]
    assert not held[0] & held[1]


def test_layers_need_not_be_contiguous_and_a_saved_plan_is_used_again(tmp_path: Path):
    file = tmp_path / "partition.json"

    made = run({"contiguous": False, "partition_file": str(file)})

    trained_as_one_process(made)
    parted = {name: stage for name, stage in made.reports[0]["parted"].items() if stage >= 0}
    # The model calls from_40 first: the first partition is no run of its order.
    assert parted == {"from_40": 1, "from_60": 0, "from_20": 0, "join": 1, "head": 1}
    told = json.loads(file.read_text())
    operations = [row for row in told["operations"] if row["partition"] is not None]
    assert {row["name"]: row["partition"] for row in operations} == parted

    # Another plan, which no partitioner would make: it is the file's that counts.
    for row in operations:
        row["partition"] = 0 if row["name"].startswith("from") else 1
    file.write_text(json.dumps(told))
    again = run({"partition_file": str(file), "load_partition": True, "xla": True})

    trained_as_one_process(again)
    loaded = {name: stage for name, stage in again.reports[0]["parted"].items() if stage >= 0}
    assert loaded == {"from_40": 0, "from_60": 0, "from_20": 0, "join": 1, "head": 1}


def test_a_rank_holds_its_partition_only_so_a_model_trains_that_does_not_fit_one_process():
    """One process with this model and limit is killed: see test_memory of the pipeline."""
    ended = run({}, "memory")

    for report in ended.reports.values():
        assert report["losses"][2] < report["losses"][0]
        assert report["weights"] < 0.6 * report["whole"]
        # Resident once it is parted: its own half, and not the other.
        assert report["parted"] < 0.75 * report["whole"]
    assert sum(report["weights"] for report in ended.reports.values()) == ended.reports[0]["whole"]
