"""Mixed precision over a pipeline: as in one process, as far as half precision resolves."""

from typing import Any

import pytest

import parallel_lab

pytestmark = pytest.mark.slow

# What one rounding of the type may change, times what six steps add up.
RESOLUTION = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def test_mixed_precision_trains_as_in_one_process_and_overflows_skip_the_step_on_all_stages():
    ended = parallel_lab.run_ranks(parallel_lab.TESTS / "programs" / "pipeline_precision.py", 2)

    assert ended.code == 0, ended.errors
    assert sorted(ended.reports) == [0, 1]
    for report in ended.reports.values():
        for kind, resolution in RESOLUTION.items():
            trains_as_in_one_process(report[f"mixed_{kind}"], kind, 8 * resolution)
        skips_what_overflows(report["overflowing"])
        assert "it began in stage 0 of 2" in report["poisoned"]
        assert report["own_policy"] == ["LossScaleOptimizer", "float16"]
    assert ended.reports[0]["overflowing"] == ended.reports[1]["overflowing"]


def trains_as_in_one_process(families: dict[str, dict[str, Any]], kind: str, tolerance: float) -> None:
    assert len(families) == 4
    for name, found in families.items():
        assert max(found[key] for key in ("apart", "loss", "mae", "predictions")) < tolerance, (kind, name, found)
        assert found["crossing"] == [kind], name
        assert found["weights"] == ["float32"], name
        assert found["kinds"] == ([kind] * 2 if name.startswith("dense") else ["float32"] * 2), name
        scales = kind == "float16" or name == "transformer"
        assert found["scaled"] == (["LossScaleOptimizer"] * 2 if scales else ["SGD"] * 2), name


def skips_what_overflows(found: dict[str, Any]) -> None:
    moved, scales, ours, one = zip(*found["steps"], strict=True)
    skipped = moved.index(1.0)
    assert skipped > 4
    assert scales[:skipped] == tuple(16.0 - step for step in range(skipped))
    assert scales[-1] == found["scale of one"]
    assert ours == one
    assert moved == tuple(float(step >= skipped) for step in range(len(moved)))
    assert found["apart"] < 0.01
