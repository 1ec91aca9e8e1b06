"""What the SDK's parameters say of how a model is parted, and what a rank then holds of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parallel_lab import TESTS, Ended, run_ranks

pytestmark = pytest.mark.slow


PROGRAM = TESTS / "programs" / "smp_parameters.py"


def run(parameters: dict[str, Any], *arguments: str, **variables: str) -> Ended:
    told = json.dumps({"partitions": 2, "microbatches": 4, **parameters})
    ended = run_ranks(PROGRAM, 2, told, *arguments, variables=variables)
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


def test_a_pipeline_that_only_goes_forward_predicts_and_refuses_to_train():
    ended = run({"pipeline": "_only_forward", "placement_strategy": "spread"}, "forward")

    for report in ended.reports.values():
        assert report["apart"] < 1e-5
        assert '"pipeline": "_only_forward" has no backward' in report["refused"]
        assert report["group"] == [0, 1]


def test_a_plan_for_speed_goes_by_measured_times_that_are_remembered(tmp_path: Path):
    file = tmp_path / "operations.json"

    ended = run({"pipeline": "_only_forward", "optimize": "speed"}, "forward", CLARY_PARALLEL_CACHE=str(file))

    measured = json.loads(file.read_text())
    assert sorted(key.split()[0] for key in measured) == ["Concatenate", *["Dense"] * 4]
    for report in ended.reports.values():
        assert sorted(took for took in report["seconds"] if took) == sorted(measured.values())
