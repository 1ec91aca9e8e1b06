"""Bad input and faults over a pipeline: what its user is told."""

import pytest

import parallel_lab

pytestmark = pytest.mark.slow

FAULTS = parallel_lab.TESTS / "programs" / "pipeline_faults.py"


def test_uneven_micro_batches_and_sums_train_as_one_process_and_nan_is_traced_to_its_stage():
    ended = parallel_lab.run_ranks(FAULTS, 2, "uneven", "summed", "not_finite")

    assert ended.code == 0, ended.errors
    for report in ended.reports.values():
        uneven = report["uneven"]
        assert uneven["metrics"] == ["loss", "mae"]
        assert uneven["apart"] < 1e-6
        assert uneven["history"] < 1e-5
        assert uneven["saved"] < 1e-5
        assert abs(uneven["steps"]) < 1e-5
        assert report["summed"]["apart"] < 1e-5
        assert "mean_with_sample_weight" in report["summed"]["refused"]
        message = report["not_finite"]["message"]
        assert "it began in stage 1 of 2 (operations dense_2 to head), in micro-batch 0" in message


def test_replicas_of_a_pipeline_train_as_one_process_with_their_joined_batches():
    ended = parallel_lab.run_ranks(FAULTS, 4, "replicas")

    assert ended.code == 0, ended.errors
    assert [report["replicas"]["apart"] < 1e-6 for report in ended.reports.values()] == [True] * 4


def test_a_killed_rank_ends_the_job():
    ended = parallel_lab.run_ranks(FAULTS, 2, "killed", timeout=120)

    assert ended.code != 0
    assert not ended.reports


def test_a_rank_that_hangs_ends_the_job_with_its_name_and_stage():
    ended = parallel_lab.run_ranks(FAULTS, 2, "hangs", variables={"CLARY_PARALLEL_PATIENCE": "15"}, timeout=120)

    assert ended.code != 0
    assert "for rank 1" in ended.errors
    assert "of stage 1, which stage 0 needs" in ended.errors
