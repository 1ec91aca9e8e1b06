"""What a pipeline does beside training like one process: divided weights, checkpoints, precision, dropout, shapes."""

import pytest

import parallel_lab

pytestmark = pytest.mark.slow


def test_each_rank_holds_its_stage_and_checkpoints_precision_dropout_and_shapes_work():
    cases = (
        "divided",
        "checkpoints",
        "averages",
        "optimizers",
        "loss_scaling",
        "dropout",
        "compiled",
        "changing_shapes",
        "needs_weights",
    )
    ended = parallel_lab.run_ranks(parallel_lab.TESTS / "programs" / "pipeline_features.py", 2, *cases)

    assert ended.code == 0, ended.errors
    assert sorted(ended.reports) == [0, 1]
    absent = 0.0
    for report in ended.reports.values():
        divided = report["divided"]
        assert divided["began"] == 0.0
        assert max(divided[key] for key in ("ended", "predictions", "history")) < 1e-5
        assert divided["absent state"] == 0.5
        assert "This rank does not hold 'sequential" in divided["refused"]
        assert "No rank holds the whole model" in divided["refused"]
        absent += divided["absent"]

        checkpoints = report["checkpoints"]
        assert checkpoints.pop("clips") == 0.5
        assert sorted(checkpoints) == ["one", "one process", "two", "with model"]
        assert max(checkpoints.values()) < 1e-5

        assert max(report["averages"].values()) < 1e-6

        assert {"SGD", "Adam", "AdamW", "Adafactor", "Ftrl", "Lamb", "Lion", "Nadam"} <= report["optimizers"].keys()
        assert {name: moved for name, moved in report["optimizers"].items() if not moved < 1e-5} == {}

        scaled = report["loss_scaling"]
        assert scaled["fits"]["moved"] > 1e-2
        assert scaled["fits"]["apart"] < 1e-2
        assert scaled["overflows"]["moved"] == 0.0
        for case in scaled.values():
            assert case["scale"] == case["expected scale"]

        dropout = report["dropout"]
        assert dropout["recomputed"] < 1e-6
        assert dropout["split"] < 1e-6
        assert dropout["evaluated"] == 0.0
        assert dropout["trained"] > 1e-3

        assert {name: case["compiled"] for name, case in report["compiled"].items()} == {"build": 1, "attentive": 1}
        assert max(case["apart"] for case in report["compiled"].values()) < 1e-4

        assert report["changing_shapes"]["apart"] < 1e-6
        assert "each rank makes those of its own stages later" in report["needs_weights"]["loads"]
        assert "without keras.utils.clear_session()" in report["needs_weights"]["finished"]
    assert absent == pytest.approx(1.0)
